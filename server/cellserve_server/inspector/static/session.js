// One session: its state as heat maps over its steps, its outputs as lines, and the steps scrolled back.

import { askWatch, poll, Refused } from "./api.js";
import { LineChart } from "./charts.js";
import { Palette } from "./colours.js";
import { el, select, setText } from "./dom.js";
import { count, duration, number, rate } from "./format.js";
import { HeatMap } from "./heat.js";
import { AGAIN, HAS_OUTPUTS, HAS_STATE, Steps } from "./steps.js";
import { onTheme, theme } from "./theme.js";

const POLL_MS = 250;
const RETRY_MS = 1000;
const WIDTHS = [32, 64, 128, 256, 512];
const PHONE_PX = 600;
const PARTS_SHOWN = 8; // of a state with many layers
const LINES_SHOWN = 12; // of an output with many elements there is a heat map instead
const PICKED = 6;

export function session(view, frame, parameters) {
  const id = parameters.get("id");
  const tenant = parameters.get("tenant");
  let row = Number(parameters.get("row") ?? 0);
  let width = innerWidth < PHONE_PX ? 64 : 128;
  let end = null; // the serial number after the last step that is shown; null: the newest
  let steps = new Steps();
  let palette = new Palette(theme());
  let panels = null; // made when it is known what the state is like
  let drawing = 0;

  const facts = el("dl", { class: "facts" });
  const word = el("p", { class: "notice", role: "status", hidden: true });
  const host = el("div", { class: "panels" });
  const rowHost = el("span");
  const slider = el("input", { type: "range", min: "0", max: "0", step: "1", "aria-label": "Steps shown: drag to scroll back" });
  const follow = el("button", { type: "button", "aria-pressed": "true" }, "Follow");
  const place = el("span", { class: "muted", id: "place" });
  const widths = select("Steps across", WIDTHS.map((each) => [each, each]), width, (value) => {
    width = Number(value);
    draw();
  });
  view.append(
    el("div", { class: "title" }, el("h1", {}, el("a", { href: "#/", "aria-label": "To the overview" }, "←"), ` ${id}`), rowHost, widths),
    word,
    facts,
    el("div", { class: "scroll" }, slider, place, follow),
    host,
  );

  slider.addEventListener("input", () => {
    const newest = Number(slider.value) >= Number(slider.max);
    end = newest ? null : (steps.list[0]?.serial ?? 0) + Number(slider.value);
    draw();
  });
  follow.addEventListener("click", () => {
    end = end === null ? steps.next : null;
    draw();
  });

  // What is shown now: the last steps up to `end`, as many as there are columns for.
  function shown() {
    const oldest = steps.list[0]?.serial ?? 0;
    const columns = Math.min(width, Math.max(steps.list.length, WIDTHS[0]));
    const least = Math.min(columns, steps.list.length);
    if (end !== null) end = Math.max(oldest + least, Math.min(end, steps.next));
    const stop = (end ?? steps.next) - oldest;
    slider.min = String(least);
    slider.max = String(steps.list.length);
    slider.value = String(stop);
    slider.disabled = steps.list.length <= columns;
    return { list: steps.list.slice(Math.max(0, stop - columns), stop), columns };
  }

  function draw() {
    if (!drawing) drawing = requestAnimationFrame(paint);
  }

  function paint() {
    drawing = 0;
    if (!panels) return;
    const { list, columns } = shown();
    follow.setAttribute("aria-pressed", String(end === null));
    setText(place, list.length ? `steps ${count(list[0].count)} to ${count(list.at(-1).count)}` : "no step yet");
    panels.forEach((panel) => panel.show(list, columns, palette));
  }

  function show(answer) {
    const { header } = answer;
    const isOther = header.watch !== steps.watch;
    steps.add(answer);
    for (const step of steps.list.slice(-answer.arrays.parts.values.length || steps.list.length)) {
      step.note = step.parts & AGAIN ? " (computed again)" : "";
    }
    if (isOther) begin(header);
    const gone = header.gone ? `Not in memory now: ${header.gone}. What was seen of it stays here while this page is open.` : "";
    setText(word, gone);
    word.hidden = !gone;
    if (header.session) tell(header.session, header.rows);
    draw();
  }

  function tell(info, rows) {
    const entries = {
      Steps: count(info.step_count),
      "Steps/s": info.idle_s < 2 ? rate(steps.rate()) : "0",
      Model: info.model,
      Rows: count(rows),
      "Unused for": duration(info.idle_s),
      Age: duration(info.age_s),
      "Expires in": duration(info.expires_in_s),
      Life: info.uid,
    };
    if (!facts.children.length) {
      facts.append(...Object.keys(entries).map((name) => el("div", {}, el("dt", {}, name), el("dd", {}))));
    }
    Object.values(entries).forEach((text, index) => setText(facts.children[index].lastChild, text));
    if (rows > 1 && !rowHost.children.length) {
      const options = Array.from({ length: Math.min(rows, 1024) }, (_, index) => [index, String(index)]);
      rowHost.append(
        select("Row", options, row, (value) => {
          row = Number(value);
          steps = new Steps();
          polling.now();
        }),
      );
    }
  }

  // Another watch: panels for what its state and outputs are.
  function begin(header) {
    panels?.forEach((panel) => panel.close());
    host.replaceChildren();
    end = null;
    const picked = pickedUnits();
    panels = [];
    const put = (panel) => {
      host.append(panel.element);
      panel.begin?.();
      panels.push(panel);
    };
    header.outputs.forEach((output, index) => put(outputPanel(output, index)));
    const parts = header.leaves.map((leaf, index) => partPanel(leaf, index, picked));
    parts.slice(0, PARTS_SHOWN).forEach(put);
    if (parts.length > PARTS_SHOWN) {
      const more = el("button", { type: "button" }, `Show ${parts.length - PARTS_SHOWN} more parts of the state`);
      more.addEventListener("click", () => {
        more.remove();
        parts.slice(PARTS_SHOWN).forEach(put);
        draw();
      });
      host.append(more);
    }
    put(picked);
  }

  const forgetTheme = onTheme(() => {
    palette = new Palette(theme());
    draw();
  });
  const polling = poll(async (signal) => {
    try {
      const known = { row, watch: steps.watch, after: steps.next };
      const answer = await askWatch({ id, ...(tenant && { tenant }), ...known }, signal);
      if (known.row !== row) return 0;
      show(answer);
      frame.live();
      return steps.next < answer.header.next ? 0 : POLL_MS;
    } catch (error) {
      if (error.name === "AbortError") return RETRY_MS;
      if (error instanceof Refused) {
        setText(word, `${error.message}. This server shows the sessions in its own memory: one that is in the store, or on another replica, is not brought here to be looked at.`);
        word.hidden = false;
        frame.live();
      } else frame.failed("no answer from the server; asking again");
      return RETRY_MS;
    }
  });
  return () => {
    polling.stop();
    forgetTheme();
    cancelAnimationFrame(drawing);
    panels?.forEach((panel) => panel.close());
  };
}

function partPanel({ name, units, band_units }, index, picked) {
  const bands = Math.ceil(units / band_units);
  const note =
    band_units === 1
      ? `${units} units`
      : `${units} units in ${bands} bands of ${band_units}; a band shows its value furthest from 0`;
  const unitName = (band) => (band_units === 1 ? `${name}[${band}]` : `${name}[${band * band_units}–${Math.min(units, (band + 1) * band_units) - 1}]`);
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

function outputPanel({ name, elements, labels }, index) {
  const values = (step) => (step.parts & HAS_OUTPUTS ? step.outputs[index] : null);
  const label = (element) => labels[element] ?? (elements === 1 ? name : `${name}[${element}]`);
  if (elements > LINES_SHOWN) {
    return new HeatMap({ title: `Output ${name}`, note: `${elements} elements`, units: elements, values, unitName: label });
  }
  const lines = Array.from({ length: elements }, (_, element) => ({ label: label(element), of: (step) => values(step)?.[element] ?? null }));
  return linePanel(`Output ${name}`, "", lines);
}

// Lines over the steps shown.
function linePanel(title, note, lines) {
  const host = el("div", { class: "plot" });
  const element = el("section", { class: "card lines", "aria-label": title }, el("div", { class: "card-head" }, el("h2", {}, title), el("span", { class: "muted" }, note)), host);
  let chart = null;
  let list = [];
  let columns = 1;
  // From serial numbers to what is written at them: the step counts of the life that is last.
  const offset = () => (list.length ? list.at(-1).count - list.at(-1).serial : 0);
  const stepAt = (x) => list.find((step) => step.serial === Math.round(x) - offset());
  return {
    element,
    begin: () => {
      chart = new LineChart(host, lines, {
        height: 180,
        formatX: (x) => (stepAt(x) ? count(stepAt(x).count) : ""),
        formatY: number,
        formatTick: rate,
        legend: true,
        range: {
          x: () => {
            const last = (list.at(-1)?.serial ?? 0) + offset();
            return [last - Math.max(columns - 1, 1), last];
          },
        },
      });
    },
    show: (newList, newColumns) => {
      list = newList;
      columns = newColumns;
      chart?.show([list.map((step) => step.serial + offset()), ...lines.map(({ of }) => list.map(of))]);
    },
    close: () => chart?.close(),
  };
}

// Single units, as lines: those that were clicked in the heat maps.
function pickedUnits() {
  const lines = [];
  const element = el("div", { class: "picked" });
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
