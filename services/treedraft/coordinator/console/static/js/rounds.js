// A bar per round, as long as it took, split into its parts. Queue, forward, walk and commit
// follow each other; draft and wire run beside them and have a thin bar of their own.

import { h, put } from "./dom.js";
import { BESIDE, ms, PARTS } from "./format.js";

const BAR = 9;
const THIN = 4;
const STEP = 17;
const HEIGHT = 132;
const TOP = 16;

export class RoundBars {
  constructor({ onSelect }) {
    this._onSelect = onSelect;
    this._rounds = [];
    this._selected = -1;
    this._canvas = h("canvas", {
      role: "img", "aria-label": "Time of each round, split into its parts",
      onclick: (event) => this._onSelect(this._roundAt(event.offsetX)),
    });
    this._strip = h("div", { class: "bars-strip" }, this._canvas);
    this._key = h("dl", { class: "parts" });
    this.element = h("div", { class: "bars" }, this._strip, this._key);
    this.show([], -1);
  }

  show(rounds, selected) {
    this._rounds = rounds;
    this._selected = selected;
    this._draw();
    this._describe();
  }

  _roundAt(x) {
    return Math.max(0, Math.min(this._rounds.length - 1, Math.floor(x / STEP)));
  }

  _draw() {
    const ratio = window.devicePixelRatio || 1;
    const width = Math.max(this._strip.clientWidth || 300, this._rounds.length * STEP + 8);
    this._canvas.width = width * ratio;
    this._canvas.height = HEIGHT * ratio;
    this._canvas.style.width = `${width}px`;
    this._canvas.style.height = `${HEIGHT}px`;
    const pen = this._canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const longest = Math.max(1, ...this._rounds.map((round) => Math.max(sum(round, PARTS), sum(round, BESIDE))));
    const scale = (HEIGHT - TOP) / longest;
    pen.font = `10.5px ${colour("--sans")}`;
    pen.fillStyle = colour("--muted");
    if (this._rounds.length) pen.fillText(ms(longest), 2, 11);
    pen.strokeStyle = colour("--line");
    pen.beginPath();
    pen.moveTo(0, TOP + 0.5);
    pen.lineTo(width, TOP + 0.5);
    pen.stroke();
    this._rounds.forEach((round, index) => {
      const x = index * STEP + 2;
      if (index === this._selected) {
        pen.fillStyle = colour("--target-soft");
        pen.fillRect(x - 2, TOP, STEP, HEIGHT - TOP);
      }
      stack(pen, round, PARTS, x, BAR, scale, colour);
      stack(pen, round, BESIDE, x + BAR + 1, THIN, scale, colour);
    });
    this._follow(width);
  }

  _follow(width) {
    if (this._selected < 0) return;
    const x = this._selected * STEP;
    const { scrollLeft, clientWidth } = this._strip;
    if (x < scrollLeft || x > scrollLeft + clientWidth - 2 * STEP) {
      this._strip.scrollLeft = Math.min(width, x - clientWidth + 3 * STEP);
    }
  }

  _describe() {
    const round = this._rounds[this._selected];
    put(this._key, ...[...PARTS, ...BESIDE].map((part) => {
      const mean = this._rounds.reduce((total, r) => total + r.ms[part.key], 0) / (this._rounds.length || 1);
      return h("div", { title: part.about },
        h("dt", {}, h("i", { class: `swatch part-${part.key}`, "aria-hidden": "true" }), part.name),
        h("dd", { class: "num" }, round ? ms(round.ms[part.key]) : "–"),
        h("dd", { class: "num muted" }, this._rounds.length ? `ø ${ms(mean)}` : ""),
      );
    }));
  }
}

function sum(round, parts) {
  return parts.reduce((total, part) => total + round.ms[part.key], 0);
}

function stack(pen, round, parts, x, width, scale, colour) {
  let y = HEIGHT;
  for (const part of parts) {
    const height = round.ms[part.key] * scale;
    pen.fillStyle = colour(`--part-${part.key}`);
    pen.fillRect(x, y - height, width, Math.max(height, height > 0 ? 0.75 : 0));
    y -= height;
  }
}
