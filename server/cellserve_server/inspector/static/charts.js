// Line charts: uPlot, in the page's colours, as wide as there is room.

import { colour, onTheme } from "./theme.js";

const uPlot = globalThis.uPlot;
const COLOURS = 12;
const WHOLE = Array.from({ length: 10 }, (_, power) => [1, 2, 5].map((factor) => factor * 10 ** power)).flat();
const clock = new Intl.DateTimeFormat("en", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});

// Draws lines into an element: `data` is x and then a column for each line. The time in x is in unix seconds.
export class LineChart {
  constructor(host, lines, { height, formatX, formatY, formatTick, legend, range, isWhole }) {
    this.host = host;
    this.lines = lines;
    const formats = {
      formatX: formatX ?? ((x) => clock.format(x * 1000)),
      formatY,
      formatTick: formatTick ?? formatY,
    };
    this.settings = { height, ...formats, legend, range, isWhole };
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
    const { height, formatX, formatY, formatTick, legend, range, isWhole } = this.settings;
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
      cursor: { drag: { x: false, y: false }, points: { size: 5 } },
      scales: { x: { time: false, range: range?.x }, y: { range: range?.y } },
      axes: [
        { ...axis, size: 26, space: 80, values: (_, ticks) => ticks.map(formatX) },
        {
          ...axis,
          size: 58,
          space: 24,
          values: (_, ticks) => ticks.map(formatTick),
          ...(isWhole && { incrs: WHOLE }),
        },
      ],
      series: [
        { label: "step", value: (_, x) => (x === null ? "–" : formatX(x)) },
        ...this.lines.map(({ label, fill }, index) => {
          const stroke = colour(`--series-${(index % COLOURS) + 1}`);
          return {
            label,
            stroke,
            width: 1.75,
            fill: fill ? `${stroke}22` : undefined,
            points: { show: false },
            value: (_, y) => (y === null || y === undefined ? "–" : formatY(y)),
          };
        }),
      ],
    };
    this.plot = new uPlot(options, this.data, this.host);
    this.plot.over.addEventListener("mouseleave", () => queueMicrotask(() => this.tell()));
  }

  show(data) {
    this.data = data;
    this.plot.setData(data);
    this.tell();
  }

  // While nobody points at the chart, its legend has the newest numbers.
  tell() {
    if (this.settings.legend && this.plot.cursor.left < 0) this.plot.setLegend({ idx: this.data[0].length - 1 });
  }

  close() {
    this.forgetTheme();
    this.observer.disconnect();
    this.plot.destroy();
  }
}
