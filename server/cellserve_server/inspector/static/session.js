// One session: its state as heat maps over its steps, its outputs as lines, and the steps scrolled back.

import { askWatch, poll, Refused } from "./api.js";
import { Palette } from "./colours.js";
import { el, select, setText } from "./dom.js";
import { count, duration, rate } from "./format.js";
import { outputPanel, partPanel, pickedUnits } from "./panels.js";
import { Steps } from "./steps.js";
import { onTheme, theme } from "./theme.js";

const POLL_MS = 250;
const RETRY_MS = 1000;
const WIDTHS = [32, 64, 128, 256, 512];
const PHONE_PX = 600;
const ONLY_HERE =
  "The inspector shows sessions in its server's memory: " +
  "one that is in the store, or on another replica, is not brought here to be looked at.";
const PARTS_SHOWN = 8; // of a state with many layers

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
  const slider = el("input", {
    type: "range",
    min: "0",
    max: "0",
    step: "1",
    "aria-label": "Steps shown: drag to scroll back",
  });
  const follow = el("button", { type: "button", "aria-pressed": "true" }, "Follow");
  const place = el("span", { class: "muted", id: "place" });
  const widths = select(
    "Steps across",
    WIDTHS.map((each) => [each, each]),
    width,
    (value) => {
      width = Number(value);
      draw();
    },
  );
  view.append(
    el(
      "div",
      { class: "title" },
      el("h1", {}, el("a", { href: "#/", "aria-label": "To the overview" }, "←"), ` ${id}`),
      rowHost,
      widths,
    ),
    word,
    facts,
    el("div", { class: "scroll" }, slider, place, follow),
    host,
  );

  slider.addEventListener("input", () => {
    end = steps.list[Number(slider.value)]?.serial ?? null;
    draw();
  });
  follow.addEventListener("click", () => {
    end = end === null ? steps.end : null;
    draw();
  });

  // What is shown now: the last steps up to `end`, as many as there are columns for.
  function shown() {
    const { list } = steps;
    const columns = Math.min(width, Math.max(list.length, WIDTHS[0]));
    const least = Math.min(columns, list.length);
    const found = end === null ? -1 : list.findIndex((step) => step.serial >= end);
    const stop = found < 0 ? list.length : Math.max(least, found);
    if (end !== null) end = list[stop]?.serial ?? steps.end; // What was shown may have left the window.
    slider.min = String(least);
    slider.max = String(list.length);
    slider.value = String(stop);
    slider.disabled = list.length <= columns;
    return { list: list.slice(Math.max(0, stop - columns), stop), columns };
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
    if (steps.add(answer)) begin(header);
    const gone = header.gone
      ? `Not in memory now: ${header.gone}. What was seen of it stays here while this page is open.`
      : "";
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
      const box = el("input", { type: "number", min: "0", max: String(rows - 1), value: String(row) });
      box.addEventListener("change", () => {
        if (!box.reportValidity() || box.value === "") return;
        row = Number(box.value);
        steps = new Steps();
        polling.now();
      });
      rowHost.append(el("label", { class: "field" }, el("span", {}, `Row (0 to ${rows - 1})`), box));
    }
  }

  // Panels for what the state and the outputs are.
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
    header.outputs.forEach((output, index) => put(outputPanel(output, index, picked)));
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
      if (error instanceof Refused) {
        setText(word, error.status === 404 ? `${error.message}. ${ONLY_HERE}` : error.message);
        word.hidden = false;
      }
      frame.failed(error);
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
