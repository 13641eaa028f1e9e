// The page's own door: the token goes once, in a header, and comes back as a cookie that no script can read.
import {html, render} from './vendor/lit-html/lit-html.js';
import {whole} from './format.js';

let trouble = '';

export function signIn(opened) {
  const at = document.getElementById('door');
  const draw = () => render(html`<form @submit=${enter}>
      <input type="text" name="username" autocomplete="username" value="board" hidden>
      <label for="token">Token</label>
      <div><input id="token" type="password" autocomplete="current-password" spellcheck="false" required aria-describedby="refused"><button type="submit">Sign in</button></div>
      <p class="hint">It is sent once; a cookie that no script can read keeps you signed in.</p>
      <p id="refused" role="alert">${trouble}</p></form>`, at);

  async function enter(event) {
    event.preventDefault();
    trouble = await refusal(event.target.querySelector('#token').value.trim());
    draw();
    if (!trouble) opened();
  }

  draw();
  at.querySelector('#token').focus();
}

// '' when the server took the token.
async function refusal(token) {
  try {
    const answer = await fetch('/session', {method: 'POST', headers: {Authorization: `Bearer ${token}`}});
    if (answer.ok) return '';
    if (answer.status === 401) return 'The server does not know this token.';
    if (answer.status === 429) return `Too many tries. Again in ${whole(Number(answer.headers.get('Retry-After') ?? 60))}.`;
    return `The server answers ${answer.status}. Try again.`;
  } catch (failure) {
    return failure instanceof TypeError && /header|ByteString|value/i.test(failure.message) ? 'A token has only Latin letters, digits and signs.' : 'The server does not answer. Try again.';
  }
}
