// One content: its place, its last hour minute by minute, what people did and how far they got.
import {html, render, svg} from './vendor/lit-html/lit-html.js';
import {repeat} from './vendor/lit-html/directives/repeat.js';
import {clock, clockS, n, say} from './format.js';
import {ESTIMATE} from './words.js';
import {bar, figure, minuteBar, move, rect, title, type} from './draw.js';
import {boardHref, facts, missing, now} from './facts.js';

const MINUTE = 60000, ROLLING = 10, DECADES = ['0', '10', '20', '30', '40', '50', '60', '70', '80', '90', '>100'];
const EVENTS = {play: 'Play', pause: 'Pause', finish: 'Finish', click: 'Click'};
const ANOMALIES = {over_length: 'longer than the content', finish_too_early: 'finished before half', duration_missing: 'no duration', unknown_content: 'unknown content'};
const percent = (part, of, digits = 0) => `${(part / (of || 1) * 100).toFixed(digits)} %`;
const sum = list => list.reduce((a, b) => a + b, 0);

export const layout = html`<div id="content"></div>`;
export const parts = {content};
export const shownBy = {content: ['content'], tick: []};

function content() {
  const of = facts.content;
  render(html`<nav><a class="back" href=${boardHref}>← Board</a></nav>${of && missing() == null ? page(of) : ''}`, document.getElementById('content'));
}

function page(of) {
  const {rolling} = of, compared = rolling.compared_with != null && facts.tick?.phase !== 'catching_up';
  return html`
    <div class="c-title">${title(of)}<p class="c-meta"><span class="type">${type(of.content_type)}</span><span>${of.content_length_seconds ? say(of.content_length_seconds) : 'no length'}</span></p></div>
    <dl class="c-figures">
      <div><dt>Place</dt><dd>${figure(n(rolling.rank))}${move(rolling.rank_before, rolling.rank, compared)}</dd></div>
      <div><dt>Score</dt><dd>${figure(n(rolling.score))}</dd></div>
      <div><dt>Events</dt><dd>${figure(n(rolling.events))}</dd></div>
      <div><dt>People</dt><dd title=${ESTIMATE}>${figure(n(rolling.unique_users))}</dd></div>
      <div><dt>Mean completion</dt><dd>${rolling.mean_percentage == null ? figure('–') : figure(rolling.mean_percentage.toFixed(1), '%')}</dd></div>
    </dl>${hour(of)}${types(rolling.types)}${of.completion ? completion(of) : ''}${recent(of.recent)}`;
}

function hour(of) {
  const first = Date.parse(of.first_minute), minutes = of.minutes.map((events, i) => ({at: first + i * MINUTE, events}));
  const max = Math.max(1, ...of.minutes), peak = minutes[of.minutes.indexOf(max)], step = 1200 / minutes.length, last = minutes.at(-1).at;
  const scale = {max, rolling: last - (ROLLING - 1) * MINUTE, now: last + MINUTE, readTo: Math.max(now() ?? 0, last)};
  const label = peak ? `Events per minute over the last hour; highest ${n(max)} at ${clock(peak.at)}. The table below has every minute.` : 'Events per minute over the last hour: none.';
  return html`<section class="c-hour"><div class="bar-head"><h2>Last hour <span>events per minute</span></h2><p class="key"><i class="sw roll"></i>last 10 minutes<i class="sw"></i>before</p></div>
    <div class="chart"><div class="ys" aria-hidden="true"><span>${n(max)}</span><span>${max > 1 ? n(max / 2) : ''}</span><span>0</span></div>
      <svg class="hour" viewBox="0 0 1200 200" preserveAspectRatio="none" role="img" aria-label=${label}>${[0.5, 100.5].map(grid)}${minutes.map((minute, i) => minuteBar(i * step, step, 200, minute, scale))}</svg>
      <div class="xs" aria-hidden="true">${minutes.filter((_, i) => i % 10 === 0).map(({at}) => html`<span>${clock(at)}</span>`)}</div></div>
    <details class="table"><summary>Every minute as a table</summary><div class="scroll" tabindex="0" role="region" aria-label="Every minute"><table><thead><tr><th scope="col">Minute</th><th scope="col" class="r">Events</th></tr></thead>
      <tbody>${minutes.toReversed().map(({at, events}) => html`<tr><td>${clock(at)}</td><td class="r">${n(events)}</td></tr>`)}</tbody></table></div></details></section>`;
}

const grid = y => svg`<line x1="0" x2="100%" y1=${y} y2=${y} class="grid"/>`;

function types(counts) {
  const all = sum(Object.values(counts)), most = Math.max(1, ...Object.values(counts));
  return html`<section class="c-types"><div class="bar-head"><h2>Event types <span>last 10 minutes</span></h2></div>
    <ol>${Object.entries(EVENTS).map(([code, name]) => html`<li><span>${name}</span>${bar((counts[code] ?? 0) / most)}<span class="num">${n(counts[code] ?? 0)}</span><span class="num share">${percent(counts[code] ?? 0, all)}</span></li>`)}</ol></section>`;
}

function completion({completion: counts, no_pct}) {
  const all = sum(counts), words = counts.map((count, i) => `${i < 10 ? `${i * 10} to ${i * 10 + 10}` : 'over 100'} percent: ${n(count)}`).join('; ');
  return html`<section class="c-far"><div class="bar-head"><h2>How far people get <span>percent of the length, last 10 minutes</span></h2></div>
    <svg class="hist" viewBox="0 0 436 120" preserveAspectRatio="none" role="img" aria-label=${`Completion: ${words}`}>${histogram(counts, count => `${n(count)}, ${percent(count, all)}`)}</svg>
    <div class="hx" aria-hidden="true">${DECADES.map(label => html`<span>${label}</span>`)}</div>
    <p class="note">${n(no_pct)} events say nothing about it: a click, no duration, or no length.</p></section>`;
}

function histogram(counts, tip) {
  const max = Math.max(1, ...counts), step = 40, height = 120;
  return counts.map((count, i) => {
    const high = Math.max(1, count / max * (height - 2)), over = i === counts.length - 1, left = i * step + (over ? 4 : 0);
    return rect(left, height - high, over ? 32 : 36, high, over ? 'over' : 'roll', tip(count));
  });
}

function recent(events) {
  return html`<section class="c-recent"><div class="bar-head"><h2>Recent events</h2></div>${events?.length ? html`<div class="scroll" tabindex="0" role="region" aria-label="Recent events"><table>
    <thead><tr><th scope="col">Time</th><th scope="col">Event</th><th scope="col" class="r">Watched</th><th scope="col" class="r">Percent</th><th scope="col">Device</th><th scope="col">Note</th></tr></thead>
    <tbody>${repeat(events.slice(0, 12), event => event.event_id, event => html`<tr><td>${clockS(Date.parse(event.event_ts))}</td><td>${EVENTS[event.event_type] ?? event.event_type}</td><td class="r">${event.engagement_seconds == null ? '–' : say(event.engagement_seconds)}</td><td class="r">${event.engagement_percentage == null ? '–' : event.engagement_percentage.toFixed(2)}</td><td>${event.device ?? '–'}</td><td>${(event.anomalies ?? []).map(code => ANOMALIES[code] ?? code).join(', ')}</td></tr>`)}</tbody></table></div>`
    : html`<p class="quiet">No events in the last hour.</p>`}</section>`;
}
