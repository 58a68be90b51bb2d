// Lines over time, in the colours of the page.

import uPlot from "../vendor/uplot/uPlot.esm.js";
import { h } from "./dom.js";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class LineChart {
  // `series`: {label, colour: a CSS variable, dash}. `format` writes a value of the y axis.
  constructor({ title, series, format, height = 150, time = true, xFormat = null }) {
    this._options = { series, format, height, time, xFormat };
    this._plot = null;
    this._data = [[], ...series.map(() => [])];
    this._box = h("div", { class: "chart-box", role: "img", "aria-label": title });
    this.element = h("figure", { class: "chart" },
      h("figcaption", {}, h("h3", {}, title), h("span", { class: "chart-key small" },
        series.length > 1 ? series.map((one) => key(one)) : null)),
      this._box,
    );
    this._watch = new ResizeObserver(() => this._resize());
    this._watch.observe(this._box);
  }

  show(data) {
    this._data = data;
    if (this._plot) this._plot.setData(data);
    else this._make();
  }

  redraw() {
    this._plot?.destroy();
    this._plot = null;
    this._make();
  }

  close() {
    this._watch.disconnect();
    this._plot?.destroy();
  }

  _resize() {
    if (this._plot && this._box.clientWidth) this._plot.setSize({ width: this._box.clientWidth, height: this._options.height });
    else this._make();
  }

  _make() {
    if (!this._box.clientWidth || this._plot) return;
    const { series, format, height, time, xFormat } = this._options;
    const axis = { stroke: colour("--muted"), font: `11px ${colour("--sans")}`, grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    this._plot = new uPlot({
      width: this._box.clientWidth, height,
      legend: { show: false }, cursor: { show: false },
      scales: { x: { time }, y: { range: (_, low, high) => [0, Math.max(high || 0, 1e-3) * 1.12] } },
      axes: [
        { ...axis, grid: { show: false }, size: 24, ...(xFormat ? { values: (_, ticks) => ticks.map(xFormat) } : { values: (_, ticks) => ticks.map(timeOfDay) }) },
        { ...axis, size: 46, space: 34, values: (_, ticks) => ticks.map(format) },
      ],
      series: [{}, ...series.map((one) => ({
        stroke: colour(one.colour), width: 2, dash: one.dash, points: { show: false },
        fill: series.length === 1 ? `color-mix(in srgb, ${colour(one.colour)} 14%, transparent)` : undefined,
      }))],
    }, this._data, this._box);
  }
}

function timeOfDay(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });
}

function key(one) {
  return h("span", {}, h("i", { class: `line ${one.dash ? "dashed" : ""} ${one.colour.slice(2)}`, "aria-hidden": "true" }), one.label);
}
