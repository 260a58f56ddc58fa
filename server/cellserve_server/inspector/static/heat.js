// A heat map: units from top to bottom, steps from left to right. Each step is one column of pixels of the canvas, each
// unit one row; CSS stretches it. Marks and the cross of the pointer are on a second canvas above it.

import { css, niceLimit } from "./colours.js";
import { el, setText } from "./dom.js";
import { number } from "./format.js";

const HINT = "Point, or use the arrow keys. A click, or Enter, draws the unit as a line.";
const SAMPLE = 4096;
const HEIGHT_PX = { min: 72, max: 288 };

export class HeatMap {
  // `values(step)` gives a step's numbers, or null where it has none; `unitName(index)` what one of them is called.
  constructor({ title, note, units, values, unitName, onPick }) {
    this.units = units;
    this.values = values;
    this.unitName = unitName;
    this.onPick = onPick;
    this.steps = [];
    this.columns = 1;
    this.top = 0;
    this.cross = null; // { column, unit }
    this.canvas = el("canvas", {
      tabindex: "0",
      role: "img",
      "aria-label": `${title}: heat map, ${units} by steps`,
    });
    this.over = el("canvas", { class: "over", "aria-hidden": "true" });
    this.readout = el("output", { class: "readout" });
    this.limit = el("span", { class: "muted limit" });
    this.scale = el("canvas", { class: "scale", width: 128, height: 1, "aria-hidden": "true" });
    this.plot = el("div", { class: "heat" }, this.canvas, this.over);
    this.plot.style.height = `${Math.max(HEIGHT_PX.min, Math.min(HEIGHT_PX.max, units * (units < 32 ? 10 : 2)))}px`;
    this.element = el(
      "section",
      { class: "card", "aria-label": title },
      el(
        "div",
        { class: "card-head" },
        el("h2", {}, title),
        el("span", { class: "muted" }, note),
        this.scale,
        this.limit,
      ),
      this.plot,
      this.readout,
    );
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.move(null));
    this.canvas.addEventListener("click", (event) => {
      this.point(event);
      this.pick();
    });
    this.canvas.addEventListener("keydown", (event) => this.press(event));
    this.observer = new ResizeObserver(() => this.mark());
    this.observer.observe(this.plot);
  }

  // Shows these steps, the newest at the right, in so many columns.
  show(steps, columns, palette) {
    this.steps = steps;
    this.columns = columns;
    this.palette = palette;
    const wanted = this.wantedLimit();
    // A scale that is a little too wide stays: else it would jump with every step.
    if (!(wanted <= this.top && wanted > this.top / 2)) this.top = wanted;
    this.paint();
    this.mark();
  }

  // What 97 of a hundred of the values shown keep within, by a sample of them: a few units that are far out would leave
  // all the others without colour.
  wantedLimit() {
    const sizes = [];
    const stride = Math.max(1, Math.floor((this.steps.length * this.units) / SAMPLE));
    let place = 0;
    for (const step of this.steps) {
      const values = this.values(step);
      if (values === null) continue;
      for (; place < this.units; place += stride)
        if (Number.isFinite(values[place])) sizes.push(Math.abs(values[place]));
      place -= this.units;
    }
    return niceLimit(Float64Array.from(sizes).sort()[Math.floor(sizes.length * 0.97)]);
  }

  paint() {
    const { canvas, columns, units, steps, palette, top } = this;
    if (canvas.width !== columns) canvas.width = columns;
    if (canvas.height !== units) canvas.height = units;
    const context = canvas.getContext("2d");
    const image = context.createImageData(columns, units);
    const pixels = new Uint32Array(image.data.buffer);
    const first = columns - steps.length;
    steps.forEach((step, index) => {
      const values = this.values(step);
      for (let unit = 0; unit < units; unit++) {
        pixels[unit * columns + first + index] = values === null ? palette.notSeen : palette.of(values[unit], top);
      }
    });
    context.putImageData(image, 0, 0);
    canvas.dataset.limit = String(top);
    canvas.dataset.first = String(steps[0]?.serial ?? "");
    canvas.dataset.next = String((steps.at(-1)?.serial ?? -1) + 1);
    this.paintScale();
    this.read();
  }

  paintScale() {
    const context = this.scale.getContext("2d");
    const image = context.createImageData(this.scale.width, 1);
    const pixels = new Uint32Array(image.data.buffer);
    pixels.forEach((_, index) => (pixels[index] = this.palette.of((index / (pixels.length - 1)) * 2 - 1, 1)));
    context.putImageData(image, 0, 0);
    setText(this.limit, `≤ −${this.top} to ≥ ${this.top}`);
  }

  // Lines where a life begins or steps are missing, and the cross.
  mark() {
    const { over, columns, steps } = this;
    const ratio = devicePixelRatio;
    const width = (over.width = Math.round(this.plot.clientWidth * ratio));
    const height = (over.height = Math.round(this.plot.clientHeight * ratio));
    const context = over.getContext("2d");
    const style = getComputedStyle(this.plot);
    const first = columns - steps.length;
    const side = width / columns;
    const line = (x) => {
      context.beginPath();
      context.moveTo(x, 0);
      context.lineTo(x, height);
      context.stroke();
    };
    context.lineWidth = Math.max(1, ratio);
    steps.forEach((step, index) => {
      if (!step.isNewLife && !step.missed) return;
      context.strokeStyle = style.getPropertyValue(step.isNewLife ? "--life" : "--muted");
      context.setLineDash(step.isNewLife ? [] : [3 * ratio, 3 * ratio]);
      line((first + index) * side);
    });
    if (!this.cross) return;
    context.setLineDash([]);
    context.strokeStyle = style.getPropertyValue("--text");
    const tall = height / this.units;
    const frame = [this.cross.column * side, this.cross.unit * tall, Math.max(side, 3), Math.max(tall, 3)];
    context.globalAlpha = 0.35;
    line(frame[0] + frame[2] / 2);
    context.globalAlpha = 1;
    context.strokeRect(...frame);
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const at = (place, size, parts) => Math.max(0, Math.min(parts - 1, Math.floor((place / size) * parts)));
    this.move({
      column: at(event.clientX - box.left, box.width, this.columns),
      unit: at(event.clientY - box.top, box.height, this.units),
    });
  }

  press(event) {
    const [across, down] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[
      event.key
    ] ?? [0, 0];
    if (event.key === "Enter") this.pick();
    else if (event.key === "Escape") this.move(null);
    else if (across || down) {
      const { column, unit } = this.cross ?? { column: this.columns - 1 - across, unit: -down };
      this.move({
        column: Math.max(0, Math.min(this.columns - 1, column + across)),
        unit: Math.max(0, Math.min(this.units - 1, unit + down)),
      });
    } else return;
    event.preventDefault();
  }

  pick() {
    if (this.cross) this.onPick(this.cross.unit);
  }

  move(cross) {
    this.cross = cross;
    this.mark();
    this.read();
  }

  // What is under the cross, in words.
  read() {
    const step = this.cross && this.steps[this.cross.column - (this.columns - this.steps.length)];
    if (!step) {
      setText(this.readout, HINT);
      delete this.readout.dataset.step;
      return;
    }
    const value = this.values(step)?.[this.cross.unit];
    const text = value === undefined ? "not seen" : number(value);
    setText(this.readout, `step ${step.count} · ${this.unitName(this.cross.unit)} = ${text}${step.note}`);
    this.readout.dataset.step = String(step.count);
    this.readout.style.setProperty(
      "--swatch",
      value === undefined ? css(this.palette.notSeen) : css(this.palette.of(value, this.top)),
    );
  }

  close() {
    this.observer.disconnect();
  }
}
