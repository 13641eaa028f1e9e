// Pure: facts -> words. The server writes title and sentence of a phase (the function behind /health); only what the
// server cannot say is written here: that it is not heard, that it refuses, and what an empty place means.
import {about, clock, clockS, moment, whole} from './format.js';

const TONES = {live: 'ok', idle: 'idle', empty: 'idle', starting: 'wait', catching_up: 'info', behind: 'warn', sink_down: 'bad', stalled: 'bad', no_board: 'bad'};

// facts {denied, missing: id|null, silent_s: number|null, heard_ms: number|null, tick} -> {tone, title, sentence}
export function status({denied, missing, silent_s, heard_ms, tick}) {
  if (denied) return {tone: 'wait', title: 'Sign in', sentence: 'This board needs a token.'};
  if (silent_s != null) {
    const from = heard_ms == null ? '' : ` What you see is from ${clockS(heard_ms)}.`;
    return {tone: 'lost', title: 'Connection lost', sentence: `No word from the server for ${whole(silent_s)}.${from} The page keeps trying by itself.`};
  }
  if (missing != null) return {tone: 'idle', title: 'Unknown content', sentence: `No event of a content with the id ${missing} has come yet. The page shows it once one does.`};
  if (!tick) return {tone: 'wait', title: 'Connecting', sentence: 'Asking the server for the board.'};
  return {tone: TONES[tick.phase] ?? 'warn', title: tick.title, sentence: inZone(tick)};
}

// The server writes a time of day in UTC and says which moment it means: it does not know the reader's zone.
const inZone = ({sentence, clock_at}) => clock_at ? sentence.replace(clock_at.slice(11, 16), clock(Date.parse(clock_at))) : sentence;

// What an empty board means; readAll: nothing waits for it. -> {title, text, command}
export function emptyBoard(phase, readAll) {
  if (phase === 'starting') return {title: 'The board is being rebuilt from Kafka.', text: 'It starts at the windows still on show, so the first board is already complete.'};
  if (phase === 'empty') return {title: 'No events yet.', text: 'Try some:', command: 'python -m generator --mode batch --batch-size 100'};
  if (phase === 'no_board' || !readAll) return {title: 'Nothing is known yet.', text: 'The board fills as events are read from Kafka.'};
  return {title: 'Nothing happened in the last 10 minutes.', text: 'The board forgets by the clock, so it is empty on purpose.'};
}

// A stage in trouble, below itself: what the destination said, the next try; what a person should do.
export function trouble(stage, now_ms) {
  const {error, breaker} = stage;
  const lines = [];
  if (error) {
    const next = breaker?.next_try_s == null ? '' : `; next try in ${whole(breaker.next_try_s)}`;
    lines.push({is: 'said', text: `${error.words} Since ${moment(Date.parse(error.since), now_ms)}${next}.`});
    if (error.todo) lines.push({is: 'todo', text: error.todo});
  }
  if (stage.state === 'catching_up' && stage.done_in_s != null) lines.push({is: 'promise', text: `On time again in ${about(stage.done_in_s)}.`});
  return lines;
}

export const minutesLeft = seconds => seconds > 0 ? `${whole(seconds)} left` : 'over';
export const span = (start, end) => `${clock(start)} – ${clock(end)}`;

// A code that says itself is not listed: `catching_up` reads "catching up".
const named = names => code => names[code] ?? code.replaceAll('_', ' ');
export const stateName = named({ok: 'on time'});
export const breakerName = named({half_open: 'trying', unknown: '–'});
export const windowName = named({late_accepted: 'takes late events'});
export const TYPES = {video: 'Video', podcast: 'Podcast', newsletter: 'Newsletter'};
export const ESTIMATE = 'estimate, about 1 %';

const reasonName = named({not_json: 'not JSON', not_utf8: 'not UTF-8', event_ts_in_future: 'event from the future', event_ts_too_old: 'event too old', refused: 'refused by the destination', too_large: 'too large for the destination'});
export function reason(code) { // wrong_event_ts -> Wrong event_ts: a field keeps its name
  const [, how, field] = /^(wrong|missing)_(.+)$/.exec(code) ?? [];
  const text = how ? `${how} ${field}` : reasonName(code);
  return text[0].toUpperCase() + text.slice(1);
}
