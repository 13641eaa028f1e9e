// The board's page: ten rows, title first; the windows as they fill; the five that lead the one that fills now.
import {html, nothing, render} from './vendor/lit-html/lit-html.js';
import {repeat} from './vendor/lit-html/directives/repeat.js';
import {clock, n} from './format.js';
import {ESTIMATE, emptyBoard, minutesLeft, span, windowName} from './words.js';
import {UP_DOWN, bar, minuteBar, move, spark, title, type} from './draw.js';
import {comparable, contentHref, facts, now, readTo, wall} from './facts.js';
import {pipeline, rejected} from './pipeline.js';

export const layout = html`<div class="left"><section id="board" aria-label="Top content"></section><section id="windows" aria-label="Windows"></section></div>
  <aside><section id="current" aria-label="This window"></section><section id="pipeline" aria-label="Pipeline" tabindex="-1"></section><section id="rejected" aria-label="Rejected events"></section></aside>`;
export const parts = {board, windows, current, pipeline, rejected};
// which parts show what came
export const shownBy = {tick: ['current'], meta: ['board', 'current'], board: ['board', 'current'], windows: ['windows'], pipeline: ['pipeline'], rejected: ['rejected']};

// ---------- top content: values and places change together, once a second; under a pointer or the focus places wait
const MINUTE = 60000, ROWS = 10, SLIDING_MAX = 25, SLIDE = {duration: 320, easing: 'cubic-bezier(.2,.7,.2,1)'};
const calm = matchMedia('(prefers-reduced-motion: reduce)'), pointing = matchMedia('(hover: hover)');
let order = []; // content ids as they are shown

const waits = list => list != null && !wall && (list.contains(document.activeElement) || pointing.matches && list.matches(':hover'));

// Places while they wait: who leaves the rows that were sent frees a place, which a newcomer takes.
function waiting(shown, sent) {
  const came = sent.slice(0, ROWS).filter(id => !shown.includes(id));
  return shown.map(id => sent.includes(id) ? id : came.shift()).filter(id => id != null).concat(came).slice(0, ROWS);
}

function board() {
  const top = facts.boards.rolling;
  if (!top) return;
  const at = document.getElementById('board'), list = at.querySelector('.rows'), held = waits(list);
  const before = new Map([...list?.children ?? []].map((row, place) => [row.dataset.id, place]));
  const sent = top.rows.map(row => row.content_id), rows = new Map(top.rows.map(row => [row.content_id, row]));
  order = held ? waiting(order, sent) : sent.slice(0, ROWS);
  render(html`${heading(top, held)}${order.length ? html`<ol class="rows">${repeat(order, id => id, (id, i) => row(rows.get(id), i + 1, top))}</ol>` : empty()}`, at);
  if (!calm.matches && order.length <= SLIDING_MAX) slide(at.querySelector('.rows'), before);
}

// Rows have one fixed height, so the way a row travels is known from its place: nothing is measured.
function slide(list, before) {
  order.forEach((id, place) => {
    const was = before.get(id);
    if (was != null && was !== place) list.children[place].animate([{transform: `translateY(${(was - place) * 100}%)`}, {transform: 'none'}], SLIDE);
  });
}

function heading(top, held) {
  const read = readTo(), compared = comparable() && order.length > 0;
  const legend = held ? 'places wait while you point' : compared ? html`${UP_DOWN} since ${clock(Date.parse(top.compared_with))}` : null;
  return html`<div class="bar-head"><h2>Top content <span>last 10 minutes${read == null ? '' : `, read up to ${clock(read)}`}</span>${legend ? html`<span class="legend">${legend}</span>` : nothing}</h2>
    <div class="cols" aria-hidden="true"><span>Type</span><span>Minute by minute</span><span class="r">Score</span><span class="r">Events</span><span class="r" title=${ESTIMATE}>People</span></div></div>`;
}

function row(of, place, top) {
  const content = facts.meta[of.content_id], read = readTo(), last = of.minutes.length - 1;
  const minute = read == null ? last : Math.floor((read - Date.parse(top.start)) / MINUTE);
  const highest = Math.max(1, top.rows[0].score);
  return html`<li class="row" data-id=${of.content_id}><span class="rank">${place}</span>${move(of.rank_before, place, comparable())}
    <a class="name" href=${contentHref(of.content_id)}>${title(content)}</a><span class="type">${type(content?.content_type)}</span>
    ${spark(of.minutes, `Minute by minute: ${of.minutes.map((events, i) => i > minute ? 'not read yet' : n(events)).join(', ')}`, Math.min(last, minute))}
    <span class="score"><span class="hidden">score </span>${n(of.score)}</span><span class="num ev">${n(of.events)}<span class="lab"> events</span></span><span class="num us">${n(of.unique_users)}<span class="lab"> people</span></span>${bar(of.score / highest)}</li>`;
}

function empty() {
  const {title, text, command} = emptyBoard(facts.tick?.phase, readTo() == null);
  return html`<div class="empty"><p class="big">${title}</p><p>${text}${command ? html` <code dir="ltr">${command}</code>` : nothing}</p></div>`;
}

// ---------- windows
const WIDTH = 1000, HEIGHT = 100, GAP = 14;

function windows() {
  const list = facts.windows?.windows;
  if (!list?.length) return;
  const length = (Date.parse(list[0].end) - Date.parse(list[0].start)) / MINUTE;
  render(html`<div class="bar-head"><h2>Windows <span>events per minute, in windows of ${length} minutes</span></h2>
      <p class="key"><i class="sw roll"></i>last 10 minutes<i class="sw"></i>before<i class="sw tick"></i>${readTo() == null ? 'to come' : 'not read yet'}</p></div>
    <svg class="minutes" viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" aria-hidden="true">${bars(list, length)}</svg>
    <ol class="wins">${list.map(of => html`<li class=${of.state}><b>${span(Date.parse(of.start), Date.parse(of.end))}</b><em>${windowName(of.state)}</em><span>${n(of.events)} events${of.late ? `, ${n(of.late)} late` : ''}</span></li>`)}</ol>`, document.getElementById('windows'));
}

function bars(list, length) {
  const t = now(), wide = (WIDTH - GAP * (list.length - 1)) / list.length, step = wide / length;
  const scale = {max: Math.max(1, ...list.flatMap(of => of.minutes.map(events => events ?? 0))), rolling: (Math.floor(t / MINUTE) - 9) * MINUTE, now: t, readTo: readTo() ?? t};
  return list.map((of, k) => of.minutes.map((events, i) => minuteBar(k * (wide + GAP) + i * step, step, HEIGHT, {at: Date.parse(of.start) + i * MINUTE, events}, scale)));
}

function current() {
  const top = facts.boards.tumbling;
  if (!top) return;
  const t = now(), start = Date.parse(top.start), end = Date.parse(top.end);
  render(html`<div class="bar-head"><h2>This window <span>${span(start, end)}</span></h2><p class="key">${minutesLeft((end - t) / 1000)}</p></div>
    ${bar((t - start) / (end - start))}
    ${top.rows.length ? html`<ol class="five">${repeat(top.rows.slice(0, 5), of => of.content_id, (of, i) => html`<li><span class="rank">${i + 1}</span><a class="name" href=${contentHref(of.content_id)}>${title(facts.meta[of.content_id])}</a><span class="score"><span class="hidden">score </span>${n(of.score)}</span></li>`)}</ol>`
      : html`<p class="quiet">No events in this window yet.</p>`}`, document.getElementById('current'));
}
