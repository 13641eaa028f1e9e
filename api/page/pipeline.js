// Where events are, stage by stage, seconds before events: a stage in trouble opens below itself. And what was refused,
// why, and the command that shows or replays it.
import {html, render} from './vendor/lit-html/lit-html.js';
import {repeat} from './vendor/lit-html/directives/repeat.js';
import {age, n, short} from './format.js';
import {breakerName, reason, stateName, trouble} from './words.js';
import {figure, mark} from './draw.js';
import {facts, lost, now, wall} from './facts.js';

export function pipeline() {
  const {stages, kafka} = facts.pipeline ?? {};
  if (!stages) return;
  const kafkaAt = stages.findIndex(({name}) => name === 'capture') + 1; // another capture (Debezium) does not speak to us
  render(html`<div class="bar-head"><h2>Pipeline</h2><div class="pcols" aria-hidden="true"><span>Behind</span><span>Waiting</span><span>Per s</span><span>Breaker</span></div></div>
    <ol class="rail">${stages.slice(0, kafkaAt).map(stage)}${broker(kafka)}${stages.slice(kafkaAt).map(stage)}</ol>`, document.getElementById('pipeline'));
}

const said = word => html`<span class="hidden">${word} </span>`;
const rate = of => n(lost() ? null : of);

function stage(of) {
  const state = lost() ? 'unknown' : of.state, breaker = of.breaker?.state, [value, unit] = age(of.lag_s), late = !['ok', 'idle'].includes(of.state);
  return html`<li class="stage ${state}">${mark(state)}<b>${of.label}</b>${said(stateName(state))}
    <span class="lag">${state === 'starting' ? html`<span class="u">starting</span>` : html`${said('behind')}${figure(value, unit)}`}${late && of.trend && of.trend !== 'steady' ? html`<span class="trend">${of.trend}</span>` : ''}</span>
    <span class="num">${said('waiting')}${n(of.lag_events)}</span><span class="num per">${said('per second')}${rate(of.rate)}</span>
    <span class="breaker ${breaker ?? ''}">${breaker ? html`${said('breaker')}${breakerName(breaker)}` : ''}</span>${below(trouble(of, now()))}</li>`;
}

function broker({partitions, rate_in, stalled}) {
  const state = lost() || rate_in == null ? 'unknown' : stalled ? 'behind' : rate_in === 0 ? 'idle' : 'ok';
  return html`<li class="stage ${state}">${mark(state)}<b title=${partitions == null ? '' : `${partitions} partitions`}>Kafka</b>${said(stateName(state))}
    <span class="lag"></span><span class="num"></span><span class="num per">${said('per second')}${rate(rate_in)}</span><span class="breaker"></span></li>`;
}

const below = lines => lines.length ? html`<div class="why">${lines.map(({is, text}) => html`<p class=${is} title=${text}>${text}</p>`)}</div>` : '';

// ---------- rejected
let first = null; // the reason that stands open: chosen once, so that a reader's own choice stays

export function rejected() {
  const {reasons, total, read} = facts.rejected ?? {};
  if (!reasons) return;
  if (!wall) first ??= reasons[0]?.reason;
  render(html`<div class="bar-head"><h2>Rejected <span>last hour</span></h2><p class="key">${n(total)} of ${short(read)}</p></div>
    ${reasons.length ? html`<div class="reasons">${repeat(reasons, of => of.reason, why)}</div>` : html`<p class="quiet">Nothing was rejected.</p>`}`, document.getElementById('rejected'));
}

function why(of) {
  return html`<details name="reason" ?open=${of.reason === first}><summary><span class="count">${n(of.count)}</span><span>${reason(of.reason)}</span></summary>
    <p>${of.words}</p>
    ${of.example ? html`<p class="example"><span>partition ${of.example.partition}, offset ${n(of.example.offset)}</span><code dir="ltr" title=${of.example.text}>${of.example.text}</code></p>` : ''}
    ${of.command ? html`<p class="command"><code dir="ltr">${of.command}</code><button type="button" @click=${copy}>Copy</button></p>` : ''}</details>`;
}

async function copy({currentTarget: button}) {
  const code = button.previousElementSibling;
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = 'Copied';
  } catch { // plain http has no clipboard
    getSelection().selectAllChildren(code);
    button.textContent = 'Select it by hand';
  }
  setTimeout(() => { button.textContent = 'Copy'; }, 2500);
}
