// The page: events mark parts as changed, one frame paints those parts, at most four times a second.
import {html, render} from './vendor/lit-html/lit-html.js';
import {board} from './board.js';
import {content} from './content.js';
import {contentId, facts, kinds, learn, lost} from './facts.js';
import {head, tabTitle} from './head.js';
import {pipeline} from './pipeline.js';
import {rejected} from './rejected.js';
import {signIn} from './signin.js';
import {stream} from './stream.js';
import {current, windows} from './windows.js';

const FRAME_MS = 250, HEARTBEAT_MS = 500, RELOAD_WITHIN_MS = 30000;
const root = document.documentElement, main = document.getElementById('main');
const BOARD = {head, board, windows, current, pipeline, rejected}, CONTENT = {head, content};
const parts = contentId == null ? BOARD : CONTENT;
// which parts show what came; a change of phase or of the rail changes how the board reads
const SHOWN_BY = {tick: ['head', 'current'], board: ['board', 'current'], windows: ['windows'], pipeline: ['pipeline', 'head'], rejected: ['rejected'], content: ['content', 'head'], meta: ['board', 'current'], hello: []};

render(contentId == null ? html`<div id="door"></div>
    <div class="left"><section id="board" aria-label="Top content"></section><section id="windows" aria-label="Windows"></section></div>
    <aside><section id="current" aria-label="This window"></section><section id="pipeline" aria-label="Pipeline" tabindex="-1"></section><section id="rejected" aria-label="Rejected events"></section></aside>`
  : html`<div id="door"></div><div id="content"></div>`, main);
root.dataset.page = contentId == null ? 'board' : 'content';

const changed = new Set();
let timer = null, painted = 0;
function mark(...names) {
  for (const name of names) if (parts[name]) changed.add(name);
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
    if (lost()) mark(...Object.keys(parts));
    facts.connection = {};
    learn(kind, event);
    mark(...SHOWN_BY[kind]);
    if (kind === 'tick' && phase !== event.phase) {
      phase = event.phase;
      mark(...Object.keys(parts));
    }
    if (kind === 'hello') {
      if (build != null && build !== event.build) setTimeout(() => location.reload(), Math.random() * RELOAD_WITHIN_MS);
      build = event.build;
    }
  },
  denied() {
    facts.connection = {denied: true};
    signIn(() => { facts.connection = {}; live.open(); });
    beat();
  },
});

function beat() {
  const silent_s = live.silence();
  if (silent_s != null) facts.connection = {silent_s};
  else if (lost()) facts.connection = {};
  root.classList.toggle('stale', lost());
  root.classList.toggle('denied', facts.connection.denied === true);
  tabTitle();
  mark('head', ...lost() ? ['pipeline'] : []);
}
setInterval(beat, HEARTBEAT_MS);
mark(...Object.keys(parts));
