// The steps of a session that the page has: those that it was told of, up to a number, the oldest go first.

export const HAS_STATE = 1;
export const HAS_OUTPUTS = 2;
const AGAIN = 4; // the state was computed again from the inputs of a longer run
const KEPT = 2048;

export class Steps {
  constructor() {
    this.watch = 0; // the server's; another one counts steps and lives anew
    this.next = 0; // the number of the step, as the server counts, that is to be asked for
    this.list = [];
    this.shape = "";
    this.uid = ""; // of the life that is last
    this.firstSerial = 0; // what is added to the server's numbers, which begin anew with each watch
    this.firstLife = 0;
  }

  // Takes an answer in; says whether its states and outputs are other ones than those before, of which nothing is left.
  // A step has views into the answer's bytes, not copies.
  add({ header, arrays }) {
    const { step_counts, lives, times, parts } = arrays;
    const shape = JSON.stringify([header.leaves, header.outputs]);
    const isOther = shape !== this.shape;
    if (isOther) this.list = [];
    if (header.watch !== this.watch) this.goOn(header, lives.values[0] ?? 0);
    const leaves = header.leaves.map((_, index) => arrays[`leaf${index}`]);
    const outputs = header.outputs.map((_, index) => arrays[`output${index}`]);
    for (let number = 0; number < step_counts.values.length; number++) {
      const previous = this.list.at(-1);
      const step = {
        serial: this.firstSerial + header.first + number,
        count: step_counts.values[number],
        life: this.firstLife + lives.values[number],
        time: times.values[number],
        parts: parts.values[number],
        leaves: leaves.map((array) => rowOf(array, number)),
        outputs: outputs.map((array) => rowOf(array, number)),
        note: parts.values[number] & AGAIN ? " (computed again)" : "",
      };
      // What is different from "the next step of this life": shown as a line before it.
      step.isNewLife = previous !== undefined && previous.life !== step.life;
      step.missed = previous === undefined || step.isNewLife ? 0 : Math.max(0, step.count - previous.count - 1);
      this.list.push(step);
    }
    this.shape = shape;
    this.watch = header.watch;
    this.uid = header.session?.uid ?? this.uid;
    this.next = header.first + step_counts.values.length;
    if (this.list.length > KEPT) this.list.splice(0, this.list.length - KEPT);
    return isOther;
  }

  // Another watch, of which these are the first steps: the page was hidden, and the one before has ended.
  goOn(header, life) {
    const last = this.list.at(-1);
    this.firstSerial = last ? last.serial + 1 - header.first : 0;
    this.firstLife = last ? last.life + (header.session?.uid === this.uid ? 0 : 1) - life : 0;
  }

  // The serial number after the last step.
  get end() {
    return this.list.length ? this.list.at(-1).serial + 1 : 0;
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
