// The overview: what the server does, second by second, and its sessions.

import { askJson, poll } from "./api.js";
import { LineChart } from "./charts.js";
import { el, select, setText } from "./dom.js";
import { count, milliseconds, rate } from "./format.js";
import { sessionTable } from "./session_table.js";

const POLL_MS = 1000;
const KEPT_S = 600; // as many as the server keeps
const SPANS = [
  [60, "1 minute"],
  [180, "3 minutes"],
  [600, "10 minutes"],
];

const total = (steps) => Object.values(steps).reduce((sum, value) => sum + value, 0);

// Each chart: its title, its lines with what they show of a sample, and how numbers are written.
const CHARTS = [
  {
    id: "rate",
    title: "Steps a second",
    lines: [{ label: "steps/s", of: (sample) => total(sample.steps), fill: true }],
    format: rate,
  },
  {
    id: "latency",
    title: "Latency in the server",
    lines: [
      { label: "p50", of: (sample) => sample.p50_s },
      { label: "p99", of: (sample) => sample.p99_s },
    ],
    format: milliseconds,
    empty: 0.001,
  },
  {
    id: "batch",
    title: "Rows in a tick",
    lines: [{ label: "rows", of: (sample) => sample.tick_rows, fill: true }],
    format: rate,
  },
  {
    id: "sessions",
    title: "Sessions in memory",
    lines: [
      { label: "sessions", of: (sample) => sample.sessions },
      { label: "queue", of: (sample) => sample.queue_runs },
    ],
    format: count,
  },
];

function card(chart, span) {
  const values = chart.lines.map(() => el("strong", {}, "–"));
  const labels = chart.lines.map(({ label }, index) =>
    el(
      "span",
      { class: "reading", "data-series": String(index + 1) },
      el("i", { class: "key" }),
      `${label} `,
      values[index],
    ),
  );
  const host = el("div", { class: "plot" });
  const element = el(
    "section",
    { class: "card", id: `chart-${chart.id}`, "aria-label": chart.title },
    el("div", { class: "card-head" }, el("h2", {}, chart.title), el("div", { class: "readings" }, ...labels)),
    host,
  );
  let plot;
  return {
    element,
    // uPlot measures: the element has to be in the page.
    begin: () => {
      plot = new LineChart(host, chart.lines, {
        height: 150,
        formatY: chart.format,
        isWhole: chart.format === count,
        legend: false,
        range: {
          x: (_, low, high) => [(high ?? 0) - span(), high ?? 1],
          y: (_, low, high) => [0, high > 0 ? high * 1.1 : (chart.empty ?? 1)],
        },
      });
    },
    show: (samples) => {
      const columns = chart.lines.map(({ of }) => samples.map(of));
      plot.show([samples.map((sample) => sample.time_s), ...columns]);
      columns.forEach((column, index) => {
        const last = column.at(-1);
        setText(values[index], last === null || last === undefined ? "–" : chart.format(last));
      });
    },
    close: () => plot.close(),
  };
}

// Columns of an answer as samples, put behind those that are there.
function join(samples, columns) {
  const names = Object.keys(columns);
  const added = columns.time_s.map((_, index) => Object.fromEntries(names.map((name) => [name, columns[name][index]])));
  const joined = samples.concat(added);
  const end = joined.at(-1)?.time_s ?? 0;
  return joined.filter((sample) => sample.time_s > end - KEPT_S);
}

export function overview(view, frame) {
  let span = 180;
  let samples = [];
  const cards = CHARTS.map((chart) => card(chart, () => span));
  const models = el("p", { class: "models" });
  const table = sessionTable();
  const spans = select("Time shown", SPANS, span, (value) => {
    span = Number(value);
    cards.forEach((each) => each.show(samples));
  });
  view.append(
    el("div", { class: "title" }, el("h1", {}, "Overview"), spans),
    el("div", { class: "cards" }, ...cards.map((each) => each.element)),
    models,
    table.element,
  );
  cards.forEach((each) => each.begin());

  const polling = poll(async (signal) => {
    try {
      const after = samples.at(-1)?.time_s ?? 0;
      const answer = await askJson("overview", { after }, signal);
      samples = join(samples, answer.samples);
      frame.facts(answer);
      cards.forEach((each) => each.show(samples));
      const busy = Object.entries(samples.at(-1)?.steps ?? {}).sort((one, other) => other[1] - one[1]);
      setText(models, busy.map(([name, steps]) => `${name} ${rate(steps)} steps/s`).join(" · "));
      await table.load(signal);
      frame.live();
    } catch (error) {
      frame.failed(error);
    }
    return POLL_MS;
  });
  table.onChange(polling.now);
  return () => {
    polling.stop();
    cards.forEach((each) => each.close());
  };
}
