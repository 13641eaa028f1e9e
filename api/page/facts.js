// What the page knows: the last event of each kind (each is a whole state, never a delta), and the server's clock.
export const contentId = location.pathname.startsWith('/c/') ? decoded(location.pathname.slice(3)) : null;
export const wall = document.documentElement.dataset.view === 'wall';
export const facts = {meta: {}, boards: {}, tick: null, windows: null, pipeline: null, rejected: null, content: null, connection: {}};

function decoded(path) {
  try { return decodeURIComponent(path); } catch { return path; }
}

// The device's date is never asked: an hour off, it would make every age wrong.
let clock = null; // {server_ms, at}: the server's time when performance.now() was `at`
export const now = () => clock && clock.server_ms + performance.now() - clock.at;
export const heard = () => clock?.server_ms ?? null;

let newest = null; // of the board; while Redis is silent the last known one goes on ageing
const keep = {
  hello() {},
  tick(tick) {
    clock = {server_ms: Date.parse(tick.now), at: performance.now()};
    if (tick.newest_event_ts) newest = Date.parse(tick.newest_event_ts);
    else if (tick.phase !== 'no_board') newest = null;
    facts.tick = tick;
  },
  meta(meta) { Object.assign(facts.meta, meta); },
  board(board) { facts.boards[board.window] = board; },
  windows(windows) { facts.windows = windows.windows; },
  pipeline(pipeline) { facts.pipeline = pipeline; },
  rejected(rejected) { facts.rejected = rejected; },
  content(content) { facts.content = content; },
};
export const kinds = Object.keys(keep);
export const learn = (kind, event) => keep[kind](event);

export function newestEvent() {
  const of = contentId == null ? newest : Date.parse(facts.content?.recent?.[0]?.event_ts);
  return Number.isNaN(of) ? null : of;
}
export const missing = () => facts.content?.known === false ? contentId : null;
export const lost = () => facts.connection.silent_s != null;

const LATE_S = 10;
// Up to where the board has read, or null when it has read everything: later minutes are then not zero but unknown.
export function readTo() {
  const redis = facts.pipeline?.stages.find(stage => stage.name === 'redis');
  return redis?.lag_s > LATE_S ? newest : null;
}
export const comparable = () => facts.boards.rolling?.compared_with != null && readTo() == null && facts.tick?.phase !== 'starting';

const shown = new Set(['theme', 'view']);
const query = new URLSearchParams([...new URLSearchParams(location.search)].filter(([name]) => shown.has(name))).toString();
const kept = query ? `?${query}` : '';
export const boardHref = `/${kept}`, contentHref = id => `/c/${encodeURIComponent(id)}${kept}`;
