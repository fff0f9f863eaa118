// Figures as people read them; pure.

const NONE = "–";
const plain = new Map();

export function number(value, digits = 0) {
  if (value == null || Number.isNaN(value)) return NONE;
  if (!plain.has(digits)) plain.set(digits, new Intl.NumberFormat(undefined, {maximumFractionDigits: digits}));
  return plain.get(digits).format(value);
}

export const percent = (value, digits = 1) => value == null || Number.isNaN(value) ? NONE : (100 * value).toFixed(digits) + "\u00a0%";

export function seconds(value) {
  if (value == null) return NONE;
  if (value < 0.9995) return number(1000 * value, value < 0.01 ? 1 : 0) + "\u00a0ms";
  return number(value, value < 10 ? 2 : 1) + "\u00a0s";
}

export const ms = value => value == null ? NONE : seconds(value / 1000);

export function compact(value) {
  if (value == null) return NONE;
  for (const [size, unit] of [[1e12, "\u00a0T"], [1e9, "\u00a0G"], [1e6, "\u00a0M"], [1e4, "\u00a0k"]]) {
    if (Math.abs(value) >= size) return number(value / (size === 1e4 ? 1e3 : size), Math.abs(value) >= 100 * size ? 0 : 1) + unit;
  }
  return number(value);
}

export function bytes(value) {
  if (value == null) return NONE;
  return value < 1e9 ? number(value / 1e6, 1) + "\u00a0MB" : number(value / 1e9, 2) + "\u00a0GB";
}

export function span(value) {
  if (value == null) return NONE;
  if (value < 60) return number(value) + "\u00a0s";
  if (value < 3600) return `${Math.floor(value / 60)}\u00a0min`;
  if (value < 172800) return `${Math.floor(value / 3600)} h ${Math.floor(value % 3600 / 60)}\u00a0min`;
  return number(value / 86400, 1) + "\u00a0days";
}

// GPU time in whichever unit shows it best.
export function gpuTime(value) {
  if (value == null) return NONE;
  if (value < 120) return number(value, value < 10 ? 1 : 0) + "\u00a0GPU-s";
  if (value < 7200) return number(value / 60, 1) + "\u00a0GPU-min";
  return number(value / 3600, value < 360000 ? 1 : 0) + "\u00a0GPU-h";
}

export const signed = (value, digits = 1) => value == null ? NONE : (value > 0 ? "+" : value < 0 ? "−" : "±") + (100 * Math.abs(value)).toFixed(digits) + "\u00a0%";

const clock = new Intl.DateTimeFormat(undefined, {hour: "2-digit", minute: "2-digit", hour12: false});
const exact = new Intl.DateTimeFormat(undefined, {hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false});
const day = new Intl.DateTimeFormat(undefined, {day: "numeric", month: "short"});

export const time = at => exact.format(at * 1000);

// A moment on an axis that spans so many seconds.
export function moment(at, spanS) {
  if (spanS <= 2 * 86400) return clock.format(at * 1000);
  return day.format(at * 1000);
}

export const stamp = at => `${day.format(at * 1000)} ${exact.format(at * 1000)}`;
