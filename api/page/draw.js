// SVG by hand: geometry in attributes, colour in classes, so that the strict CSP holds (no style attribute anywhere).
import {html, nothing, svg} from './vendor/lit-html/lit-html.js';
import {clock, n} from './format.js';
import {TYPES} from './words.js';

const MARKS = {
  disc: svg`<circle cx="8" cy="8" r="5.5"/>`,
  ring: svg`<circle cx="8" cy="8" r="4.75" class="o"/>`,
  dashed: svg`<circle cx="8" cy="8" r="4.75" class="o dash"/>`,
  arrows: svg`<path d="M1.5 13V3l6 5V3l7 5-7 5V8z"/>`,
  triangle: svg`<path d="M8 2 15 14H1z"/>`,
  square: svg`<rect x="2.5" y="2.5" width="11" height="11"/>`,
  cross: svg`<path d="M3 3l10 10M13 3 3 13" class="o thick"/>`,
};
const SHAPES = {ok: 'disc', idle: 'ring', wait: 'dashed', starting: 'dashed', info: 'arrows', catching_up: 'arrows', warn: 'triangle', behind: 'triangle', bad: 'square', stopped: 'square'};
// of a tone (head) or of a stage's state (rail): shape first, colour second; what is not known is a cross
export const mark = of => svg`<svg class="mark ${of}" viewBox="0 0 16 16" aria-hidden="true">${MARKS[SHAPES[of] ?? 'cross']}</svg>`;

const ICONS = {
  video: svg`<rect x="1.5" y="3" width="13" height="10" rx="1.5" class="o"/><path d="M6.5 5.8v4.4L10.4 8z"/>`,
  podcast: svg`<rect x="5.8" y="1.5" width="4.4" height="7.5" rx="2.2" class="o"/><path d="M3.3 7.5a4.7 4.7 0 0 0 9.4 0M8 12.2v2.3" class="o"/>`,
  newsletter: svg`<rect x="1.5" y="3" width="13" height="10" rx="1.5" class="o"/><path d="M2 4l6 5 6-5" class="o"/>`,
};
export const type = of => html`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true">${ICONS[of] ?? nothing}</svg><span>${TYPES[of] ?? ''}</span>`;

// The direction of a title comes from its own letters, its edge from the page; no <bdi> inside, `auto` would skip it.
export const title = content => html`<span class="title" dir="auto" title=${content?.content_title ?? nothing}>${content?.content_title ?? 'Untitled'}</span>`;

export const figure = (value, unit) => html`<span class="v">${value}</span>${unit ? html`<span class="u">${unit}</span>` : nothing}`;

// drawn, for fonts disagree about these two signs
const triangle = d => svg`<svg class="way" viewBox="0 0 10 9" aria-hidden="true"><path d=${d}/></svg>`;
const UP = triangle('M5 0l5 9H0z'), DOWN = triangle('M5 9L0 0h10z');
export const UP_DOWN = html`${UP}${DOWN}`;

// Places gained or lost since the board that is compared with; nothing where there is none.
export function move(before, place, compared) {
  if (!compared || place == null) return html`<span class="move"></span>`;
  if (before == null) return html`<span class="move new"><span aria-hidden="true">new</span><span class="hidden">new on the board</span></span>`;
  const places = before - place;
  if (places === 0) return html`<span class="move"><span class="hidden">same place</span></span>`;
  const way = places > 0 ? 'up' : 'down';
  return html`<span class="move ${way}"><span aria-hidden="true">${places > 0 ? UP : DOWN}${Math.abs(places)}</span><span class="hidden">${way} ${Math.abs(places)}</span></span>`;
}

// A bar is a minute, everywhere on the page. The last one read is still filling and lighter; a tick on the baseline is
// a minute to come, one not read yet, or one without events. One path a shade: a board of sparklines is cheap to paint.
export function spark(minutes, label, readTo = minutes.length - 1) {
  const max = Math.max(1, ...minutes), step = 10, width = 8, height = 28, paths = {full: '', now: '', tick: ''};
  minutes.forEach((events, i) => {
    const tick = i > readTo || !events, high = tick ? 0.8 : Math.max(1.5, events / max * height);
    paths[tick ? 'tick' : i === readTo ? 'now' : 'full'] += `M${i * step} ${height}v${(-high).toFixed(1)}h${width}v${high.toFixed(1)}z`;
  });
  return html`<svg class="spark" viewBox="0 0 ${minutes.length * step - 2} ${height}" preserveAspectRatio="none" role="img" aria-label=${label}><path d=${paths.full}/><path class="now" d=${paths.now}/><path class="tick" d=${paths.tick}/></svg>`;
}

export function line(values, label) {
  const max = Math.max(1, ...values), points = values.map((v, i) => v == null ? '' : `${i},${(26 - v / max * 24).toFixed(1)}`).join(' '); // what was not seen is left out
  return html`<svg class="line" viewBox="0 0 ${Math.max(1, values.length - 1)} 28" preserveAspectRatio="none" role="img" aria-label=${label}><polyline points=${points}/></svg>`;
}

const share = of => Math.round(Math.min(1, Math.max(0, of)) * 1000);
export const bar = of => svg`<svg class="bar" viewBox="0 0 1000 4" preserveAspectRatio="none" aria-hidden="true"><rect width="1000" height="4" class="rest"/><rect width=${share(of)} height="4"/></svg>`;

export const rect = (x, y, width, height, shade, tip) => svg`<rect x=${x.toFixed(1)} y=${y.toFixed(1)} width=${width.toFixed(1)} height=${height.toFixed(1)} class=${shade}>${tip ? svg`<title>${tip}</title>` : nothing}</rect>`;

// One minute as a bar of a chart: left, step, height of the chart; minute {at, events|null}, scale {max, rolling, now, readTo}.
export function minuteBar(left, step, height, {at, events}, {max, rolling, now, readTo}) {
  if (events == null || at > readTo) return rect(left + 0.5, height - 3, step - 3.5, 3, 'tick');
  const high = Math.max(1.5, events / max * (height - 2)), roll = at >= rolling && at <= now, filling = readTo - at < 60000;
  return rect(left, height - high, step - 2.5, high, `${roll ? 'roll' : ''} ${filling ? 'now' : ''}`, `${clock(at)}: ${n(events)} events`);
}
