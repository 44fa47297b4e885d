// Numbers with their units, mostly three digits of them. A space that does not break stands before the unit.

const STEPS = ["", "k", "M", "G", "T", "P"];

function scaled(value, unit) {
  let step = 0;
  // 999.5 would be rounded to four digits.
  while (Math.abs(value) >= 999.5 && step < STEPS.length - 1) {
    value /= 1000;
    step += 1;
  }
  return `${digits(value)}\u00a0${STEPS[step]}${unit}`.trimEnd();
}

function digits(value) {
  const size = Math.abs(value);
  const decimals = size === 0 || size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2;
  return value.toFixed(decimals);
}

export const bits = (value) => scaled(value, "bit/s");
export const bytes = (value) => scaled(value, "B");
export const perSecond = (value) => scaled(value, "/s");
export const percent = (value) => `${(100 * value).toFixed(1)}\u00a0%`;
export const count = (value) => value.toLocaleString("en").replaceAll(",", "\u202f");

export function micros(value) {
  if (Math.abs(value) >= 999_500) return `${digits(value / 1e6)}\u00a0s`;
  return Math.abs(value) >= 999.5 ? `${digits(value / 1e3)}\u00a0ms` : `${digits(value)}\u00a0µs`;
}

// The two greatest of days, hours, minutes and seconds.
export function duration(seconds) {
  const parts = [[86_400, "d"], [3_600, "h"], [60, "min"], [1, "s"]];
  const first = parts.findIndex(([length]) => seconds >= length);
  if (first < 0) return "0\u00a0s";
  let left = Math.floor(seconds);
  const said = [];
  for (const [length, unit] of parts.slice(first, first + 2)) {
    const whole = Math.floor(left / length);
    left -= whole * length;
    if (whole > 0) said.push(`${whole}\u00a0${unit}`);
  }
  return said.join("\u00a0");
}

// The first sixteen digits, as in the metrics.
export const key = (hex) => hex.slice(0, 16);

// The same without the zeros that end its decimals: for the marks of an axis.
export const short = (text) => text.replace(/(\.\d*?)0+(?!\d)/, "$1").replace(/\.(?!\d)/, "");
