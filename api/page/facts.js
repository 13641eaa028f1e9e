// What the page knows: the last event of each kind (each is a whole state, never a delta), and the server's clock.
export const contentId = location.pathname.startsWith('/c/') ? decoded(location.pathname.slice(3)) : null;
export const wall = document.documentElement.dataset.view === 'wall';
export const facts = {meta: {}, boards: {}, connection: {}}; // tick, windows, pipeline, rejected, content once they came

function decoded(path) {
  try { return decodeURIComponent(path); } catch { return path; }
}

// The device's date is never asked: an hour off, it would make every age wrong.
let clock = null; // {server_ms, at}: the server's time when performance.now() was `at`
export const now = () => clock && clock.server_ms + performance.now() - clock.at;
export const heard = () => clock?.server_ms ?? null;

let newest = null; // of the board; while Redis is silent the last known one goes on ageing
export const kinds = ['hello', 'tick', 'meta', 'board', 'windows', 'pipeline', 'rejected', 'content'];
export function learn(kind, event) {
  if (kind === 'board') facts.boards[event.window] = event;
  else facts[kind] = event;
  if (kind !== 'tick') return;
  clock = {server_ms: Date.parse(event.now), at: performance.now()};
  if (event.newest_event_ts) newest = Date.parse(event.newest_event_ts);
  else if (event.phase !== 'no_board') newest = null;
}

export function newestEvent() {
  const of = contentId == null ? newest : Date.parse(facts.content?.recent?.[0]?.event_ts);
  return Number.isNaN(of) ? null : of;
}
export const missing = () => facts.content?.known === false ? contentId : null;
export const lost = () => facts.connection.silent_s != null;

const LATE_S = 10;
// Up to where the board has read, or null when it has read everything: later minutes are then not zero but unknown.
export function readTo() {
  const late = facts.pipeline?.stages.some(stage => ['capture', 'redis'].includes(stage.name) && stage.lag_s > LATE_S);
  return late ? newest : null;
}
export const comparable = () => facts.boards.rolling?.compared_with != null && readTo() == null && facts.tick?.phase !== 'starting';

const query = new URLSearchParams(location.search), chosen = ['theme', 'view'].filter(name => query.has(name)).map(name => `${name}=${encodeURIComponent(query.get(name))}`);
const kept = chosen.length ? `?${chosen.join('&')}` : '';
export const boardHref = `/${kept}`, contentHref = id => `/c/${encodeURIComponent(id)}${kept}`;
