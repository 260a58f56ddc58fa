// Numbers as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const count = (value) => whole.format(value);

export const rate = (value) => (value >= 100 ? whole.format(value) : short.format(value));

export function milliseconds(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  return `${short.format(seconds * 1000)} ms`;
}

export function duration(seconds) {
  if (seconds < 0) return "over";
  if (seconds < 1) return "now";
  if (seconds < 60) return `${whole.format(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${whole.format(Math.floor(seconds % 60))} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

// A number of a state: all digits that tell a float32 apart would be noise here.
export function number(value) {
  if (!Number.isFinite(value)) return String(value);
  return value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5) ? value.toExponential(3) : value.toFixed(4);
}
