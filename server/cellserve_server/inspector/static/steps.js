// The steps of a session that the page has: those that it was told of, up to a number, the oldest go first.

export const HAS_STATE = 1;
export const HAS_OUTPUTS = 2;
const AGAIN = 4; // the state was computed again from the inputs of a longer run
const KEPT = 2048;

export class Steps {
  constructor() {
    this.watch = 0; // another watch has other serial numbers
    this.next = 0;
    this.list = [];
  }

  // Takes an answer in. A step has views into the answer's bytes, not copies.
  add({ header, arrays }) {
    if (header.watch !== this.watch) {
      this.watch = header.watch;
      this.list = [];
    }
    const { step_counts, lives, times, parts } = arrays;
    const of = (kind, number) =>
      header[kind].map((_, index) => rowOf(arrays[`${kind === "leaves" ? "leaf" : "output"}${index}`], number));
    for (let number = 0; number < step_counts.values.length; number++) {
      const previous = this.list.at(-1);
      const step = {
        serial: header.first + number,
        count: step_counts.values[number],
        life: lives.values[number],
        time: times.values[number],
        parts: parts.values[number],
        leaves: of("leaves", number),
        outputs: of("outputs", number),
        note: parts.values[number] & AGAIN ? " (computed again)" : "",
      };
      // What is different from "the next step of this life": shown as a line before it.
      step.isNewLife = previous !== undefined && previous.life !== step.life;
      step.missed = previous === undefined || step.isNewLife ? 0 : Math.max(0, step.count - previous.count - 1);
      this.list.push(step);
    }
    this.next = header.first + step_counts.values.length;
    if (this.list.length > KEPT) this.list.splice(0, this.list.length - KEPT);
  }

  // Steps a second over the last ones, by when the server saw them.
  rate() {
    const last = this.list.slice(-64);
    if (last.length < 2 || last.at(-1).life !== last[0].life) return 0;
    const seconds = last.at(-1).time - last[0].time;
    return seconds > 0 ? (last.at(-1).count - last[0].count) / seconds : 0;
  }
}

function rowOf({ shape, values }, number) {
  return values.subarray(number * shape[1], (number + 1) * shape[1]);
}
