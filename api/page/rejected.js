// What was refused, why, and the command that shows or replays it.
import {html, render} from './vendor/lit-html/lit-html.js';
import {repeat} from './vendor/lit-html/directives/repeat.js';
import {n, short} from './format.js';
import {reason} from './words.js';
import {facts, wall} from './facts.js';

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
