// What format.js and words.js say, as promises. Printed as one JSON object: {"checked": n, "wrong": [...]}.
// Runs in node, or in a browser where `report` puts the answer into the document.
export async function check(folder) {
  const format = await import(`${folder}/format.js`), words = await import(`${folder}/words.js`);
  const wrong = [];
  let checked = 0;
  function is(what, found, expected) {
    checked += 1;
    const [a, b] = [JSON.stringify(found), JSON.stringify(expected)];
    if (a !== b) wrong.push(`${what}: ${a}, not ${b}`);
  }
  const local = (...parts) => new Date(2026, 10, 21, ...parts).getTime(); // a time of day in whatever zone this runs in

  // ---------- format
  is('a number', format.n(1234567.4), '1,234,567');
  is('an unknown number', format.n(null), '–');
  is('a zero is a zero', format.n(0), '0');
  is('short', [999999, 1000000, 5640118, 12000000, null].map(format.short), ['999,999', '1.0 M', '5.6 M', '12 M', '–']);
  is('age', [null, -3, 0, 1.84, 9.94, 9.96, 119.4, 119.6, 360, 3599.6, 3600, 99000, 400000].map(format.age), [
    ['–', ''], ['0.0', 's'], ['0.0', 's'], ['1.8', 's'], ['9.9', 's'], ['10', 's'], ['119', 's'], ['1:59', 'min'], ['6:00', 'min'], ['59:59', 'min'], ['1:00', 'h'], ['27:30', 'h'], ['5', 'days']]);
  is('say', [null, 2190, 4380].map(format.say), ['–', '36:30 min', '1:13 h']);
  is('about', [null, 3, 41, 70, 94, 360, 1320, 7200].map(format.about), ['unknown', 'a few seconds', 'about 40 s', 'about 70 s', 'about 90 s', 'about 6 min', 'about 22 min', 'about 2.0 h']);
  is('whole seconds', [7.4, 118.9, 222, null].map(format.whole), ['7 s', '119 s', '3:42 min', '–']);
  is('clock', [format.clock(local(14, 2)), format.clockS(local(4, 26, 7))], ['14:02', '04:26:07']);
  is('a moment of today', format.moment(local(14, 13), local(14, 26)), '14:13');
  is('a moment of another day', format.moment(local(14, 13), local(14, 26) + 3 * 86400000), 'Sat 21 Nov, 14:13');

  // ---------- the page's own states, word for word
  const tick = {phase: 'live', title: 'Live', sentence: 'Every destination is on time.', clock_at: null};
  const said = facts => { const {title, sentence} = words.status(facts); return `${title}|${sentence}`; };
  is('lost', said({silent_s: 7.2, heard_ms: local(14, 26, 47), tick}), 'Connection lost|No word from the server for 7 s. What you see is from 14:26:47. The page keeps trying by itself.');
  is('lost before a word', said({silent_s: 7.2, heard_ms: null}), 'Connection lost|No word from the server for 7 s. The page keeps trying by itself.');
  is('lost for long', said({silent_s: 754, heard_ms: null}), 'Connection lost|No word from the server for 12:34 min. The page keeps trying by itself.');
  is('denied', said({denied: true, silent_s: 9, tick}), 'Sign in|This board needs a token.');
  is('the server speaks', said({silent_s: null, tick}), 'Live|Every destination is on time.');
  is('lost wins over what the server said', words.status({silent_s: 6, heard_ms: null, tick}).tone, 'lost');
  is('before the first word', said({}), 'Connecting|Asking the server for the board.');
  const at = new Date(local(14, 4)).toISOString();
  is('a time of day in the reader\'s zone', said({tick: {phase: 'idle', title: 'Quiet', sentence: `No events since ${at.slice(11, 16)}. Everything is running.`, clock_at: at}}), 'Quiet|No events since 14:04. Everything is running.');
  is('tones', ['live', 'idle', 'empty', 'starting', 'catching_up', 'behind', 'sink_down', 'stalled', 'no_board', 'news'].map(phase => words.status({tick: {...tick, phase}}).tone),
    ['ok', 'idle', 'idle', 'wait', 'info', 'warn', 'bad', 'bad', 'bad', 'warn']);
  is('a content that nobody knows', words.status({missing: 'x', tick}).title, 'Unknown content');

  // ---------- empty boards
  const empty = (phase, readAll = true) => { const {title, text, command} = words.emptyBoard(phase, readAll); return [title, text, command].filter(Boolean).join(' '); };
  is('idle', empty('idle'), 'Nothing happened in the last 10 minutes. The board forgets by the clock, so it is empty on purpose.');
  is('quiet while the partner is down', empty('sink_down'), empty('idle'));
  is('starting', empty('starting').startsWith('The board is being rebuilt from Kafka.'), true);
  is('empty', empty('empty').endsWith('python -m generator --mode batch --batch-size 100'), true);
  is('not read is not nothing', empty('catching_up', false) === empty('idle'), false);
  is('Redis silent is not nothing', empty('no_board') === empty('idle'), false);

  // ---------- a stage in trouble
  const stage = {state: 'stopped', breaker: {state: 'open', next_try_s: 10.4}, error: {since: new Date(local(14, 13)).toISOString(), words: 'The partner answers 503.', todo: 'Wait.'}};
  const below = of => words.trouble(of, local(14, 26)).map(({is: kind, text}) => `${kind}: ${text}`);
  is('what, since, next try, todo', below(stage), ['said: The partner answers 503. Since 14:13; next try in 10 s.', 'todo: Wait.']);
  is('no next try', below({...stage, breaker: {state: 'closed', next_try_s: null}})[0], 'said: The partner answers 503. Since 14:13.');
  is('on time again', below({state: 'catching_up', done_in_s: 74, error: null}), ['promise: On time again in about 70 s.']);
  is('never promises', below({state: 'catching_up', done_in_s: null}), []);
  is('well', below({state: 'ok', breaker: {state: 'closed'}}), []);

  is('names', [words.stateName('ok'), words.stateName('catching_up'), words.breakerName('half_open'), words.windowName('late_accepted'), words.windowName('closed')], ['on time', 'catching up', 'trying', 'takes late events', 'closed']);
  is('reasons', ['not_json', 'wrong_event_ts', 'missing_content_id', 'event_ts_in_future', 'nested_too_deep', 'refused'].map(words.reason), ['Not JSON', 'Wrong event_ts', 'Missing content_id', 'Event from the future', 'Nested too deep', 'Refused by the destination']);
  is('time left', [words.minutesLeft(222), words.minutesLeft(0)], ['3:42 min left', 'over']);
  return {checked, wrong};
}
