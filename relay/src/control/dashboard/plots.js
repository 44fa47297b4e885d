// Plots of the history, beside or below one another, with one cursor.

import { bits, count, micros, percent, perSecond, short } from "./format.js";
import { SAMPLES_MAX } from "./history.js";

// Lines that can still be told apart; of more workers than that, the mean and the busiest are drawn.
const LINES_MAX = 6;

// A page that was just opened shows a minute.
const SPAN_MIN_S = 60;

const PLOTS = [
  { name: "Out", note: "payload, all channels", say: bits, lines: () => [line("out", "sent_bps")] },
  { name: "In", note: "payload, all channels", say: bits, lines: () => [line("in", "received_bps")] },
  {
    name: "Subscribers",
    note: "all channels",
    say: (value) => count(Math.round(value)),
    lines: () => [line("subscribers", "subscribers")],
  },
  {
    name: "Processor",
    note: "of a core, by worker",
    say: percent,
    lines: (workers) =>
      workers > LINES_MAX
        ? [
            { label: "mean", of: ({ workers }) => workers.reduce((sum, cpu) => sum + cpu, 0) / workers.length },
            { label: "busiest", of: ({ workers }) => (workers.length > 0 ? Math.max(...workers) : undefined) },
          ]
        : Array.from({ length: workers }, (_, at) => ({ label: String(at), of: ({ workers }) => workers[at] })),
  },
  {
    name: "Delay",
    note: "capture to arrival here",
    say: micros,
    lines: () => [line("median", "delay"), line("slowest", "delay_max")],
  },
  {
    name: "Loss",
    note: "data shards on the way in",
    say: perSecond,
    lines: () => [line("lost", "lost"), { ...line("recovered", "recovered"), dash: [3, 3] }, line("repaired", "repaired")],
  },
];

const line = (label, field) => ({ label, of: (sample) => sample[field] });

export class Plots {
  #place;
  #history;
  #workers = -1;
  #shown = [];

  constructor(place, history) {
    this.#place = place;
    this.#history = history;
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#remake());
  }

  show(workers) {
    if (workers === this.#workers) return this.#draw();
    this.#workers = workers;
    this.#remake();
  }

  #draw() {
    const { samples, last } = this.#history;
    if (last === undefined) return;
    const times = samples.map((sample) => sample.at);
    const from = Math.max(last.at - SAMPLES_MAX, Math.min(times[0], last.at - SPAN_MIN_S));
    for (const { figure, plot, lines } of this.#shown) {
      const values = lines.map(({ of }) => samples.map((sample) => finite(of(sample))));
      // A relay that does not tell has no plot of it.
      figure.hidden = values.every((line) => line.every((value) => value === null));
      plot.setData([times, ...values], false);
      plot.setScale("x", { min: from, max: last.at });
      tellLast(plot);
    }
  }

  #remake() {
    for (const { plot, observer } of this.#shown) {
      observer.disconnect();
      plot.destroy();
    }
    this.#place.replaceChildren();
    this.#shown = PLOTS.map((about) => this.#make(about));
    this.#draw();
  }

  #make({ name, note, say, lines: linesFor }) {
    const lines = linesFor(this.#workers);
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    const title = document.createElement("h2");
    const small = document.createElement("span");
    title.textContent = name;
    small.textContent = note;
    caption.append(title, small);
    const inside = document.createElement("div");
    figure.append(caption, inside);
    this.#place.append(figure);
    const plot = new uPlot(options(lines, say, inside), [[], ...lines.map(() => [])], inside);
    plot.root.querySelector("canvas").setAttribute("aria-hidden", "true");
    const observer = new ResizeObserver(() => {
      plot.setSize(size(inside));
      tellLast(plot);
    });
    observer.observe(inside);
    return { figure, plot, lines, observer };
  }
}

// Below a plot are the values at the cursor; without one, the last.
function tellLast(plot) {
  if (plot.cursor.idx == null) plot.setLegend({ idx: plot.data[0].length - 1 }, false);
}

const finite = (value) => (Number.isFinite(value) ? value : null);

const size = (inside) => ({ width: inside.clientWidth, height: 150 });

const minute = uPlot.fmtDate("{HH}:{mm}");
const second = uPlot.fmtDate("{HH}:{mm}:{ss}");

function moments(_plot, times, _axis, _space, step) {
  const say = step < 60 ? second : minute;
  return times.map((time) => say(new Date(1000 * time)));
}

function options(lines, say, inside) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const font = "11px system-ui, sans-serif";
  const axis = {
    stroke: colour("--quiet"),
    font,
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { show: false },
  };
  const value = (_, value) => (value == null ? "–" : say(value));
  return {
    ...size(inside),
    padding: [8, 20, 0, 0],
    cursor: { sync: { key: "dashboard" }, drag: { x: false, y: false }, y: false, points: { size: 6 } },
    legend: { live: true },
    scales: { x: { time: true }, y: { range: (_, min, max) => [Math.min(0, min ?? 0), max > 0 ? max * 1.1 : 1] } },
    axes: [
      { ...axis, grid: { show: false }, size: 24, space: 70, values: moments },
      { ...axis, size: 72, space: 32, values: (_, values) => values.map((value) => short(say(value))) },
    ],
    series: [
      { label: "at", value: "{HH}:{mm}:{ss}" },
      ...lines.map(({ label, dash }, at) => {
        return { label, value, dash, stroke: colour(`--line-${at + 1}`), width: 1.5, points: { show: false } };
      }),
    ],
  };
}
