// Numbers as colours: blue below 0, orange above it, and the page's own ground at 0.

const STOPS = {
  light: ["#08306b", "#2171c7", "#9cc7ec", "#f6f7f9", "#fdc58a", "#e8701a", "#7f2704"],
  dark: ["#b7dcff", "#4596ea", "#1c4c80", "#12161d", "#7d4411", "#ef8a2b", "#ffdfb8"],
};
const NOT_A_NUMBER = "#d633c8";
const NOT_SEEN = { light: "#d5d9df", dark: "#343b46" };
const STEPS = 255; // on each side of 0

const parts = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const pack = ([red, green, blue]) => (255 << 24) | (blue << 16) | (green << 8) | red; // as ImageData has it

export class Palette {
  constructor(theme) {
    const stops = STOPS[theme].map(parts);
    this.table = new Uint32Array(2 * STEPS + 1);
    for (let index = 0; index < this.table.length; index++) {
      const place = (index / (this.table.length - 1)) * (stops.length - 1);
      const low = Math.min(Math.floor(place), stops.length - 2);
      const mixed = stops[low].map((from, part) => Math.round(from + (stops[low + 1][part] - from) * (place - low)));
      this.table[index] = pack(mixed);
    }
    this.notANumber = pack(parts(NOT_A_NUMBER)) >>> 0;
    this.notSeen = pack(parts(NOT_SEEN[theme])) >>> 0;
  }

  // The colour of a value where the scale goes from -limit to limit.
  of(value, limit) {
    if (value !== value) return this.notANumber;
    const place = Math.max(-1, Math.min(1, value / limit));
    return this.table[Math.round((place + 1) * STEPS)];
  }
}

export const css = (packed) => `rgb(${packed & 255} ${(packed >> 8) & 255} ${(packed >> 16) & 255})`;

// The least round number that is not below a value.
export function niceLimit(value) {
  if (!(value > 0) || !Number.isFinite(value)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10]
    .map((factor) => Number((factor * power).toPrecision(2)))
    .find((limit) => limit >= value * (1 - 1e-9));
}
