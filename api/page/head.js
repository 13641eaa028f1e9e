// What is true now, in words first; then how old the newest event is, as the largest figure.
import {html, render} from './vendor/lit-html/lit-html.js';
import {age, clock, date, n} from './format.js';
import {ESTIMATE, status} from './words.js';
import {figure, line, mark} from './draw.js';
import {contentId, facts, heard, lost, missing, newestEvent, now} from './facts.js';

const LONG = {title: 28, sentence: 140}; // characters that fit beside the figures; more are set smaller, into the same height
const at = id => document.getElementById(id);
const current = () => status({...facts.connection, heard_ms: heard(), missing: missing(), tick: facts.tick});
let said = null;

export function head() {
  const t = now(), tick = facts.tick ?? {}, newest = newestEvent(), gone = lost();
  const {tone, title, sentence} = current();
  const [value, unit] = age(newest == null || t == null ? null : (t - newest) / 1000);
  document.documentElement.dataset.tone = tone;
  if (said !== title) at('say').textContent = `${title}. ${sentence}`;
  said = title;
  render(html`
    <div class="state"><div class="what">${mark(tone)}<h1 class=${title.length > LONG.title ? 'long' : ''}>${title}</h1></div>
      <p class=${sentence.length > LONG.sentence ? 'long' : ''}>${tone === 'bad' && contentId == null ? html`<a href="#pipeline">${sentence}</a>` : sentence}</p></div>
    <dl class="figures">
      <div class="fresh"><dt>${contentId == null ? 'Newest event on the board' : 'Newest event of this content'}</dt><dd>${figure(value, unit)}${unit ? html`<span class="u">ago</span>` : ''}</dd></div>
      <div class="rate"><dt>Events per second</dt><dd>${figure(gone ? '–' : n(tick.events_per_s))}${line(tick.rate_60 ?? [], 'Events per second over the last minute')}</dd></div>
      <div class="people"><dt>People, last 10 minutes</dt><dd title=${ESTIMATE}>${figure(n(tick.people_10m))}</dd></div>
      <div class="clock"><dt>${t == null ? 'Server' : date(t)}</dt><dd>${figure(t == null ? '–' : clock(t))}</dd></div>
    </dl>`, at('head'));
}

// The tab's title: the state comes first unless all is well. Written also while the tab is hidden and nothing is painted.
export function tabTitle() {
  const {tone, title} = current();
  const of = contentId == null ? 'Live engagement' : facts.content?.content_title ?? contentId;
  const text = tone === 'ok' ? of : `${title}: ${of}`;
  if (document.title !== text) document.title = text;
}
