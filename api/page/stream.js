// One EventSource, kept alive. It gives up for good on anything but 200 (a proxy's 502), and notices no dead network:
// both are handled here. Closed while nobody looks: HTTP/1.1 allows six connections per host.
const SILENT_MS = 5000, REOPEN_MS = 12000, HIDDEN_MS = 60000;
const retryMs = failures => (failures === 0 ? 2000 : failures < 15 ? 4000 : 30000) * (0.75 + Math.random() / 4);

// url; kinds: the events to hear; heard(kind, event): a word came; denied(): it asks for a token
export function stream(url, kinds, {heard, denied}) {
  let source = null, id = '', failures = 0, retry = null, hiding = null;
  let waits = false; // for a token; then for open()
  let paused = false; // on purpose: nobody looks
  let opened = 0, expected = performance.now(); // the last attempt; since when a word is missing

  function open() {
    close();
    paused = false;
    opened = performance.now();
    const from = new URL(url, location);
    if (id) from.searchParams.set('since', id);
    source = new EventSource(from);
    for (const kind of kinds) {
      source.addEventListener(kind, message => {
        expected = opened = performance.now();
        failures = 0;
        id = message.lastEventId;
        heard(kind, JSON.parse(message.data));
      });
    }
    source.addEventListener('error', () => { if (source?.readyState === EventSource.CLOSED) again(from); });
  }

  // EventSource does not say why it was refused; asking the same address once more does.
  async function again(from) {
    close();
    const mine = retry = setTimeout(open, retryMs(failures++)), asking = new AbortController();
    let status = null;
    try {
      ({status} = await fetch(from, {headers: {Accept: 'text/event-stream'}, cache: 'no-store', signal: asking.signal}));
      asking.abort();
    } catch { /* not reachable: the next try will tell */ }
    if (mine !== retry) return;
    if (status === 200) open();
    if (status !== 401) return;
    close();
    waits = true;
    denied();
  }

  function close() {
    clearTimeout(retry);
    retry = null;
    source?.close();
    source = null;
  }

  function pause() {
    close();
    paused = true;
  }

  function resume() {
    if (!paused || waits) return;
    expected = performance.now();
    open();
  }

  addEventListener('pagehide', pause);
  addEventListener('pageshow', resume);
  document.addEventListener('visibilitychange', () => {
    clearTimeout(hiding);
    if (document.hidden) hiding = setTimeout(pause, HIDDEN_MS);
    else resume();
  });
  open();

  return {
    open() {
      waits = false;
      failures = 0;
      expected = performance.now();
      open();
    },
    // Seconds without a word, once they are too many; null while words come, or none is expected. Called twice a second.
    silence() {
      if (paused || waits) return null;
      if (source && performance.now() - opened > REOPEN_MS) open();
      const silent = performance.now() - expected;
      return silent > SILENT_MS ? silent / 1000 : null;
    },
  };
}
