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
  if (missing != null) return {tone: 'idle', title: 'Unknown content', sentence: `No content ${missing} is known. It shows here as soon as the first event for it has come through.`};
  if (!tick) return {tone: 'wait', title: 'Connecting', sentence: 'Asking the server for the board.'};
  return {tone: TONES[tick.phase] ?? 'warn', title: tick.title, sentence: inZone(tick)};
}

// The server writes a time of day in UTC and says which moment it means: it does not know the reader's zone.
const inZone = ({sentence, clock_at}) => clock_at ? sentence.replace(clock_at.slice(11, 16), clock(Date.parse(clock_at))) : sentence;

// phase -> what an empty board means: {title, text, command}
export function emptyBoard(phase) {
  if (phase === 'starting') return {title: 'The board is being rebuilt from Kafka.', text: 'It starts at the windows still on show, so the first board is already complete.'};
  if (phase === 'empty') return {title: 'No events yet.', text: 'Try some:', command: 'python -m generator --mode batch --batch-size 100'};
  if (phase === 'live' || phase === 'idle') return {title: 'Nothing happened in the last 10 minutes.', text: 'The board forgets by the clock, so it is empty on purpose.'};
  if (phase === 'no_board' || phase == null) return {title: 'The board is not known yet.', text: 'It comes with the first answer.'};
  return {title: 'Nothing on the board yet.', text: 'It fills as events are read from Kafka.'};
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

export const STATES = {ok: 'on time', catching_up: 'catching up', behind: 'behind', stopped: 'stopped', starting: 'starting', idle: 'idle', unknown: 'unknown'};
export const BREAKERS = {closed: 'closed', open: 'open', half_open: 'trying'};
export const WINDOWS = {filling: 'filling', late_accepted: 'takes late events', closed: 'closed'};
export const TYPES = {video: 'Video', podcast: 'Podcast', newsletter: 'Newsletter'};
export const ESTIMATE = 'estimate, about 1 %';

const REASONS = {
  not_json: 'Not JSON', not_utf8: 'Not UTF-8', not_an_object: 'Not an object', byte_order_mark: 'Byte order mark', nested_too_deep: 'Nested too deep',
  event_ts_in_future: 'Event from the future', event_ts_too_old: 'Event too old', wrong_kafka_timestamp: 'Wrong Kafka timestamp', wrong_header: 'Wrong header',
  wrong_envelope: 'Wrong Debezium envelope', refused: 'Refused by the destination', too_large: 'Too large for the destination', row_too_large: 'Row too large', day_out_of_range: 'Day out of range',
};
export function reason(code) { // missing_event_type -> Missing event_type: a field keeps its name
  const of = /^(wrong|missing)_(.+)$/.exec(code);
  return REASONS[code] ?? (of ? `${of[1] === 'wrong' ? 'Wrong' : 'Missing'} ${of[2]}` : code);
}
