// Draws the charts of the page from the data in it, and makes the table behind each when it is opened.
"use strict";
(() => {
  const HEIGHT_PX = { wide: 260, narrow: 190 };
  const PRINT_WIDTH_PX = { wide: 680, narrow: 320 };
  const FONT = "12px system-ui, sans-serif";
  const LOG10_2 = Math.log10(2);

  const charts = JSON.parse(document.getElementById("charts-data").textContent);
  const drawn = new Map();
  let printing = false;

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Three digits, or all those before the point.
  function figure(value) {
    if (value == null) return "-";
    const digits = value === 0 ? 0 : 2 - Math.floor(Math.log10(Math.abs(value)));
    const decimals = Math.min(Math.max(digits, 0), 6);
    return value.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  }

  const tick = (value) => (value == null ? "" : value.toLocaleString("en", { maximumSignificantDigits: 4 }));

  // 59 s, 2:05, 1:02:05.
  function time(value) {
    if (value < 120 || value % 1) return `${tick(value)} s`;
    const two = (number) => String(number).padStart(2, "0");
    const [hours, minutes, seconds] = [Math.floor(value / 3600), Math.floor(value / 60) % 60, value % 60];
    return hours ? `${hours}:${two(minutes)}:${two(seconds)}` : `${minutes}:${two(seconds)}`;
  }

  function percent(value) {
    const share = 100 * (1 - 10 ** -value);
    return `${Number(share.toFixed(Math.max(1, Math.ceil(value))))} %`;
  }

  const X = {
    seconds: { label: "Time", text: time },
    percentile: { label: "Percentile", text: percent },
    rate: { label: "Requests/s due", text: figure },
  };

  // 50, 90, 99, 99.9 % and so on, each at its place.
  function percentileSplits(plot, axis, low, high) {
    const nines = Array.from({ length: Math.floor(high) + 1 }, (_, index) => index);
    const shown = plot.width < 500 ? nines.slice(1) : nines; // 0 % and 50 % would stand in each other's way.
    return [...shown, LOG10_2].sort((a, b) => a - b).filter((value) => value >= low && value <= high);
  }

  function drawMarks(chart) {
    return (plot) => {
      const { ctx, bbox } = plot;
      ctx.save();
      ctx.strokeStyle = ctx.fillStyle = colour("--faint");
      ctx.font = `${Math.round(11 * devicePixelRatio)}px system-ui, sans-serif`;
      ctx.textAlign = "right";
      ctx.setLineDash([4, 4]);
      for (const mark of chart.marks) {
        const x = Math.round(plot.valToPos(mark.x, "x", true));
        if (x < bbox.left || x > bbox.left + bbox.width + 1) continue;
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
        ctx.fillText(mark.label, x - 4, bbox.top + 12 * devicePixelRatio);
      }
      ctx.restore();
    };
  }

  // The legend has values only while the mouse is on a chart.
  function showValues(plot) {
    plot.root.classList.toggle("idle", plot.cursor.idx == null);
  }

  function valueRange(chart) {
    if (!chart.log) return (plot, low, high) => [0, high > 0 ? high * 1.08 : 1];
    return (plot, low, high) => (high == null ? [1, 10] : uPlot.rangeLog(low, high, 10, false));
  }

  const line = () => ({ stroke: () => colour("--line"), width: 1 });
  const powersOf10 = (plot, splits) => splits.map((value) => (Number.isInteger(Math.log10(value)) ? value : null));

  function axis(options) {
    return { stroke: () => colour("--faint"), font: FONT, grid: line(), ticks: { ...line(), size: 4 }, gap: 4, ...options };
  }

  function options(chart, width) {
    const x = X[chart.x_kind];
    const isPercentile = chart.x_kind === "percentile";
    return {
      width,
      height: HEIGHT_PX[chart.wide ? "wide" : "narrow"],
      scales: { x: { time: false }, y: { distr: chart.log ? 3 : 1, range: valueRange(chart) } },
      axes: [
        axis({
          size: 28,
          space: isPercentile ? 0 : 70,
          values: (plot, splits) => splits.map(x.text),
          ...(isPercentile ? { splits: percentileSplits } : { incrs: [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 2e4, 5e4, 1e5] }),
        }),
        axis({
          size: (plot, values) => 14 + 7 * Math.max(3, ...(values || []).map((text) => text.length)),
          values: (plot, splits) => splits.map(tick),
          ...(chart.log ? { grid: { ...line(), filter: powersOf10 } } : {}),
        }),
      ],
      series: [
        { label: x.label, value: (plot, value) => (value == null ? "-" : x.text(value)) },
        ...chart.series.map((series) => ({
          label: series.label,
          stroke: colour(`--series-${series.colour}`),
          width: 2,
          dash: series.dashed ? [6, 4] : undefined,
          value: (plot, value) => figure(value),
          points: { size: 5 },
        })),
      ],
      cursor: { y: false, sync: chart.x_kind === "seconds" ? { key: "seconds" } : undefined },
      hooks: { init: [showValues], setCursor: [showValues], draw: [drawMarks(chart)] },
    };
  }

  function widthOf(chart, place) {
    return printing ? PRINT_WIDTH_PX[chart.wide ? "wide" : "narrow"] : place.clientWidth;
  }

  function draw(chart) {
    const place = document.querySelector(`#${chart.key} .plot`);
    drawn.get(chart.key)?.destroy();
    const data = [chart.x, ...chart.series.map((series) => series.values)];
    drawn.set(chart.key, new uPlot(options(chart, widthOf(chart, place)), data, place));
  }

  function cell(row, kind, text) {
    const made = row.appendChild(document.createElement(kind));
    if (kind === "th") made.scope = row.parentElement.tagName === "THEAD" ? "col" : "row";
    made.textContent = text;
  }

  function makeTable(chart, place) {
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    cell(head, "th", X[chart.x_kind].label);
    chart.series.forEach((series) => cell(head, "th", series.label));
    const body = table.createTBody();
    chart.x.forEach((value, index) => {
      const row = body.insertRow();
      cell(row, "th", X[chart.x_kind].text(value));
      chart.series.forEach((series) => cell(row, "td", figure(series.values[index])));
    });
    place.replaceChildren(table);
  }

  for (const chart of charts) {
    const place = document.querySelector(`#${chart.key} .plot`);
    draw(chart);
    new ResizeObserver(() => {
      const plot = drawn.get(chart.key);
      if (plot.width !== widthOf(chart, place)) plot.setSize({ width: widthOf(chart, place), height: plot.height });
    }).observe(place);
    const details = document.querySelector(`#${chart.key} details`);
    details.addEventListener("toggle", () => makeTable(chart, details.querySelector(".scroll")), { once: true });
  }

  // Paper is white, whatever the screen is, and narrower.
  function print(on) {
    printing = on;
    document.documentElement.classList.toggle("printing", on);
    charts.forEach(draw);
  }
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach(draw));
})();
