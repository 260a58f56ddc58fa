// What a session's page shows of its steps: panels with `show(list, columns, palette)` and `close()`.

import { LineChart } from "./charts.js";
import { el } from "./dom.js";
import { count, number, rate } from "./format.js";
import { HeatMap } from "./heat.js";
import { HAS_OUTPUTS, HAS_STATE } from "./steps.js";

const LINES_SHOWN = 12; // of an output with many elements there is a heat map instead
const PICKED = 6;

// A part of the state.
export function partPanel({ name, units, band_units }, index, picked) {
  const bands = Math.ceil(units / band_units);
  const note =
    band_units === 1
      ? `${units} units`
      : `${units} units in ${bands} bands of ${band_units}; a band shows its value furthest from 0`;
  const unitName = (band) =>
    band_units === 1
      ? `${name}[${band}]`
      : `${name}[${band * band_units}–${Math.min(units, (band + 1) * band_units) - 1}]`;
  const values = (step) => (step.parts & HAS_STATE ? step.leaves[index] : null);
  return new HeatMap({
    title: name,
    note,
    units: bands,
    values,
    unitName,
    onPick: (unit) => picked.toggle(unitName(unit), (step) => values(step)?.[unit] ?? null),
  });
}

// An output: lines, or a heat map where they would be many.
export function outputPanel({ name, elements, labels }, index, picked) {
  const values = (step) => (step.parts & HAS_OUTPUTS ? step.outputs[index] : null);
  const label = (element) => labels[element] ?? (elements === 1 ? name : `${name}[${element}]`);
  if (elements > LINES_SHOWN) {
    const map = new HeatMap({
      title: `Output ${name}`,
      note: `${elements} elements`,
      units: elements,
      values,
      unitName: label,
      onPick: (element) => picked.toggle(label(element), (step) => values(step)?.[element] ?? null),
    });
    map.element.classList.add("across");
    return map;
  }
  const lines = Array.from({ length: elements }, (_, element) => ({
    label: label(element),
    of: (step) => values(step)?.[element] ?? null,
  }));
  return linePanel(`Output ${name}`, "", lines);
}

// Lines over the steps shown.
function linePanel(title, note, lines) {
  const host = el("div", { class: "plot" });
  const element = el(
    "section",
    { class: "card lines across", "aria-label": title },
    el("div", { class: "card-head" }, el("h2", {}, title), el("span", { class: "muted" }, note)),
    host,
  );
  let chart = null;
  let list = [];
  let columns = 1;
  // Steps lie side by side, as in the heat maps; x is the step count of the last one, and one less for each before.
  const last = () => list.at(-1)?.count ?? 0;
  const stepAt = (x) => list[list.length - 1 - (last() - Math.round(x))];
  return {
    element,
    begin: () => {
      chart = new LineChart(host, lines, {
        height: 180,
        formatX: (x) => (stepAt(x) ? count(stepAt(x).count) : ""),
        formatY: number,
        formatTick: rate,
        legend: true,
        range: { x: () => [last() - Math.max(columns - 1, 1), last()] },
      });
    },
    show: (newList, newColumns) => {
      list = newList;
      columns = newColumns;
      chart?.show([list.map((_, index) => last() - (list.length - 1 - index)), ...lines.map(({ of }) => list.map(of))]);
    },
    close: () => chart?.close(),
  };
}

// Single units, as lines: those that were clicked in the heat maps.
export function pickedUnits() {
  const lines = [];
  const element = el("div", { class: "picked across" });
  let panel = null;
  let last = null;
  const rebuild = () => {
    panel?.close();
    element.replaceChildren();
    panel = null;
    if (!lines.length) return;
    panel = linePanel("Picked units", "click a unit again to let it go", [...lines]);
    element.append(panel.element);
    panel.begin();
    if (last) panel.show(...last);
  };
  return {
    element,
    toggle: (label, of) => {
      const at = lines.findIndex((line) => line.label === label);
      if (at >= 0) lines.splice(at, 1);
      else lines.push({ label, of });
      if (lines.length > PICKED) lines.shift();
      rebuild();
    },
    show: (...shown) => {
      last = shown;
      panel?.show(...shown);
    },
    close: () => panel?.close(),
  };
}
