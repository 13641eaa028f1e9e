// The windows as they fill, and the five that lead the one that fills now.
import {html, render} from './vendor/lit-html/lit-html.js';
import {repeat} from './vendor/lit-html/directives/repeat.js';
import {n} from './format.js';
import {WINDOWS, minutesLeft, span} from './words.js';
import {bar, minuteBar, title} from './draw.js';
import {contentHref, facts, now, readTo} from './facts.js';

const MINUTE = 60000, WIDTH = 1000, HEIGHT = 100, GAP = 14;

export function windows() {
  const list = facts.windows;
  if (!list?.length) return;
  const length = (Date.parse(list[0].end) - Date.parse(list[0].start)) / MINUTE;
  render(html`<div class="bar-head"><h2>Windows <span>events per minute, in windows of ${length} minutes</span></h2>
      <p class="key"><i class="sw roll"></i>last 10 minutes<i class="sw"></i>before<i class="sw tick"></i>${readTo() == null ? 'to come' : 'not read yet'}</p></div>
    <svg class="minutes" viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" aria-hidden="true">${bars(list, length)}</svg>
    <ol class="wins">${list.map(of => html`<li class=${of.state}><b>${span(Date.parse(of.start), Date.parse(of.end))}</b><em>${WINDOWS[of.state] ?? of.state}</em><span>${n(of.events)} events${of.late ? `, ${n(of.late)} late` : ''}</span></li>`)}</ol>`, document.getElementById('windows'));
}

function bars(list, length) {
  const t = now(), wide = (WIDTH - GAP * (list.length - 1)) / list.length, step = wide / length;
  const scale = {max: Math.max(1, ...list.flatMap(of => of.minutes.map(events => events ?? 0))), rolling: (Math.floor(t / MINUTE) - 9) * MINUTE, now: t, readTo: readTo() ?? t};
  return list.map((of, k) => of.minutes.map((events, i) => minuteBar(k * (wide + GAP) + i * step, step, HEIGHT, {at: Date.parse(of.start) + i * MINUTE, events}, scale)));
}

export function current() {
  const top = facts.boards.tumbling;
  if (!top) return;
  const t = now(), start = Date.parse(top.start), end = Date.parse(top.end);
  render(html`<div class="bar-head"><h2>This window <span>${span(start, end)}</span></h2><p class="key">${minutesLeft((end - t) / 1000)}</p></div>
    ${bar((t - start) / (end - start))}
    ${top.rows.length ? html`<ol class="five">${repeat(top.rows.slice(0, 5), of => of.content_id, (of, i) => html`<li><span class="rank">${i + 1}</span><a class="name" href=${contentHref(of.content_id)}>${title(facts.meta[of.content_id])}</a><span class="score"><span class="hidden">score </span>${n(of.score)}</span></li>`)}</ol>`
      : html`<p class="quiet">No events in this window yet.</p>`}`, document.getElementById('current'));
}
