// The page: events mark parts as changed, one frame paints those parts, at most four times a second.
import {html, render} from './vendor/lit-html/lit-html.js';
import {contentId, facts, kinds, learn, lost} from './facts.js';
import {head, tabTitle} from './head.js';
import {stream} from './stream.js';

const FRAME_MS = 250, HEARTBEAT_MS = 500, RELOAD_WITHIN_MS = 30000;
const {layout, parts: below, shownBy} = await import(contentId == null ? './boards.js' : './content.js');
const parts = {head, ...below}, everything = Object.keys(parts);
const root = document.documentElement;
root.dataset.page = contentId == null ? 'board' : 'content';
render(html`<div id="door"></div>${layout}`, document.getElementById('main'));

const changed = new Set();
let timer = null, painted = 0;
function show(names) {
  for (const name of names) changed.add(name);
  timer ??= setTimeout(() => requestAnimationFrame(paint), Math.max(0, FRAME_MS - (performance.now() - painted)));
}
function paint() {
  timer = null;
  painted = performance.now();
  for (const name of changed) parts[name]();
  changed.clear();
  performance.measure('paint', {start: painted}); // for whoever observes; kept nowhere
  performance.clearMeasures('paint');
}

let phase = null, build = null;
const live = stream(`/stream${contentId == null ? '' : `?content=${encodeURIComponent(contentId)}`}`, kinds, {
  heard(kind, event) {
    const another = lost() || kind === 'tick' && phase !== event.phase; // then everything reads differently
    if (kind === 'tick') root.dataset.phase = phase = event.phase;
    if (kind === 'hello') reloadIfRebuilt(event.build);
    facts.connection = {};
    learn(kind, event);
    show(another ? everything : ['head', ...shownBy[kind] ?? []]);
  },
  async denied() {
    facts.connection = {denied: true};
    const {signIn} = await import('./signin.js');
    beat();
    signIn(() => {
      facts.connection = {};
      live.open();
      beat();
    });
  },
});

function reloadIfRebuilt(now) {
  if (build != null && build !== now) setTimeout(() => location.reload(), Math.random() * RELOAD_WITHIN_MS);
  build = now;
}

function beat() {
  const silent_s = live.silence();
  if (silent_s != null) facts.connection = {silent_s};
  else if (lost()) facts.connection = {};
  root.classList.toggle('stale', lost());
  root.classList.toggle('denied', facts.connection.denied === true);
  tabTitle();
  show(lost() && parts.pipeline ? ['head', 'pipeline'] : ['head']);
}
setInterval(beat, HEARTBEAT_MS);
show(everything);
