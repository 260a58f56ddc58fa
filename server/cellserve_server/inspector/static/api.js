// What the server is asked, and the form of its answers.

const TYPES = {
  uint8: Uint8Array,
  int32: Int32Array,
  float32: Float32Array,
  float64: Float64Array,
};

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

// Nobody answers: the server has stopped, or the way to it is cut.
export class Unreachable extends Error {}

// Reads the answer to its end: one that breaks off, or is none of ours, is as if nobody had answered.
async function ask(question, parameters, signal, form) {
  let answer, refusal;
  try {
    answer = await fetch(`api/${question}?${new URLSearchParams(parameters)}`, { signal });
    if (answer.ok) return await answer[form]();
    refusal = await answer.json();
  } catch (error) {
    throw error.name === "AbortError" ? error : new Unreachable(error.message);
  }
  throw new Refused(refusal.error, answer.status);
}

export function askJson(question, parameters, signal) {
  return ask(question, parameters, signal, "json");
}

export async function askWatch(parameters, signal) {
  return decode(await ask("watch", parameters, signal, "arrayBuffer"));
}

// A uint32 with the length of a JSON header, the header, and arrays at the offsets that it says.
export function decode(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const arrays = {};
  for (const [name, { dtype, shape, offset }] of Object.entries(header.arrays)) {
    const size = shape.reduce((product, side) => product * side, 1);
    arrays[name] = { shape, values: new TYPES[dtype](buffer, 4 + length + offset, size) };
  }
  return { header, arrays };
}

// Asks again and again while the page can be seen; what is asked says how long to wait until the next time.
export function poll(question) {
  const controller = new AbortController();
  let timer = 0;
  let underWay = false;
  let again = false;
  const run = async () => {
    if (document.hidden || controller.signal.aborted) return;
    again = underWay;
    if (underWay) return;
    clearTimeout(timer);
    underWay = true;
    const wait = await question(controller.signal);
    underWay = false;
    if (!controller.signal.aborted) timer = setTimeout(run, again ? 0 : wait);
  };
  document.addEventListener("visibilitychange", run, { signal: controller.signal });
  run();
  return {
    now: run,
    stop: () => {
      controller.abort();
      clearTimeout(timer);
    },
  };
}
