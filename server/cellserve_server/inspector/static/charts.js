// Line charts: uPlot, in the page's colours, as wide as there is room.

import { colour, onTheme } from "./theme.js";

const uPlot = globalThis.uPlot;
export const SERIES = ["--series-1", "--series-2", "--series-3", "--series-4", "--series-5", "--series-6"];
const DASHES = [[], [6, 4], [2, 3]]; // More lines than colours: the colours come again, dashed.

// Draws lines into an element. `describe(size)` gives uPlot's options but for size and colours.
export class LineChart {
  constructor(host, lines, { height, isTime, formatX, formatY, legend, range, cursor }) {
    this.host = host;
    this.lines = lines;
    this.settings = { height, isTime, formatX, formatY, legend, range, cursor };
    this.data = [[], ...lines.map(() => [])];
    this.draw();
    this.forgetTheme = onTheme(() => this.draw());
    this.observer = new ResizeObserver(() => {
      const width = this.host.clientWidth;
      if (width && width !== this.plot.width) this.plot.setSize({ width, height });
    });
    this.observer.observe(host);
  }

  draw() {
    this.plot?.destroy();
    const { height, isTime, formatX, formatY, legend, range, cursor } = this.settings;
    const axis = {
      stroke: colour("--muted"),
      grid: { stroke: colour("--grid"), width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
    };
    const options = {
      width: Math.max(this.host.clientWidth, 50),
      height,
      padding: [8, 10, 0, 0],
      legend: { show: legend, live: legend },
      cursor: { drag: { x: false, y: false }, points: { size: 5 }, ...cursor },
      scales: { x: { time: isTime, range: range?.x }, y: { range: range?.y } },
      axes: [
        { ...axis, size: 26, ...(formatX && { values: (_, ticks) => ticks.map(formatX) }) },
        { ...axis, size: 50, space: 24, values: (_, ticks) => ticks.map(formatY) },
      ],
      series: [
        { label: isTime ? "time" : "step", ...(formatX && { value: (_, x) => (x === null ? "–" : formatX(x)) }) },
        ...this.lines.map(({ label, fill }, index) => {
          const stroke = colour(SERIES[index % SERIES.length]);
          return {
            label,
            stroke,
            width: 1.75,
            dash: DASHES[Math.floor(index / SERIES.length) % DASHES.length],
            fill: fill ? `${stroke}22` : undefined,
            points: { show: false },
            value: (_, y) => (y === null || y === undefined ? "–" : formatY(y)),
          };
        }),
      ],
    };
    this.plot = new uPlot(options, this.data, this.host);
  }

  show(data) {
    this.data = data;
    this.plot.setData(data);
  }

  close() {
    this.forgetTheme();
    this.observer.disconnect();
    this.plot.destroy();
  }
}
