// Pure: values -> text. Latin digits everywhere, also beside Arabic; an unknown value is "–".
const integer = new Intl.NumberFormat('en', {numberingSystem: 'latn', maximumFractionDigits: 0});
export const n = x => x == null ? '–' : integer.format(x);
export const short = x => x == null ? '–' : x >= 9.95e6 ? `${Math.round(x / 1e6)} M` : x >= 1e6 ? `${(x / 1e6).toFixed(1)} M` : n(x);

const two = x => String(x).padStart(2, '0');
export function age(s) { // seconds -> [figure, unit]; never more than two units
  if (s == null) return ['–', ''];
  if (s < 9.95) return [Math.max(0, s).toFixed(1), 's'];
  if (s < 119.5) return [String(Math.round(s)), 's'];
  if (s < 3600) return [`${Math.floor(s / 60)}:${two(Math.floor(s % 60))}`, 'min'];
  if (s < 360000) return [`${Math.floor(s / 3600)}:${two(Math.floor(s % 3600 / 60))}`, 'h'];
  return [n(s / 86400), 'days'];
}
export const say = s => age(s).filter(Boolean).join(' ');
export const whole = s => s == null ? '–' : s < 119.5 ? `${Math.round(s)} s` : say(s); // counts down or up, no tenths

export function about(s) { // seconds, for promises: rounded, so that the words stand still
  if (s == null) return 'unknown';
  if (s < 15) return 'a few seconds';
  if (s < 95) return `about ${Math.round(s / 10) * 10} s`;
  if (s < 5400) return `about ${Math.round(s / 60)} min`;
  return `about ${(s / 3600).toFixed(1)} h`;
}

const formatter = parts => new Intl.DateTimeFormat('en-GB', {numberingSystem: 'latn', ...parts});
const minute = formatter({hour: '2-digit', minute: '2-digit'});
const second = formatter({hour: '2-digit', minute: '2-digit', second: '2-digit'});
const day = formatter({weekday: 'short', day: 'numeric', month: 'short'});
export const clock = t => minute.format(t), clockS = t => second.format(t), date = t => day.format(t);

const HALF_A_DAY_MS = 43200000;
export const moment = (t, now) => now != null && Math.abs(now - t) > HALF_A_DAY_MS ? `${date(t)}, ${clock(t)}` : clock(t); // with the day, where it is another
