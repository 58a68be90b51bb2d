// The spans of a request on one axis of time. Parts of a round are pieces of its bar; of many
// spans of one name under one parent the middle is folded into a line that opens.

import { h, put, svg } from "./dom.js";
import { fixed, ms, PARTS } from "./format.js";

const PART_NAMES = new Set(PARTS.map((part) => part.key));
const SHOWN = 5;

export class Waterfall {
  constructor(trace) {
    this._spans = trace.spans;
    this._end = Math.max(...trace.spans.map((span) => span.end));
    this._opened = new Set();
    this._body = h("div", { class: "waterfall", role: "table", "aria-label": "Spans of the request" });
    this._detail = h("dl", { class: "span-detail", "aria-live": "polite" });
    this._index();
    this.element = h("div", {}, this._shares(), this._body, this._detail);
    this._draw();
  }

  _index() {
    const known = new Set(this._spans.map((span) => span.id));
    this._children = new Map();
    for (const span of [...this._spans].sort((a, b) => a.start - b.start || b.end - a.end)) {
      const parent = known.has(span.parent) ? span.parent : "";
      if (!this._children.has(parent)) this._children.set(parent, []);
      this._children.get(parent).push(span);
    }
  }

  _draw() {
    const lines = [];
    const walk = (parent, depth) => {
      for (const group of this._folded(parent)) {
        if (group.folded) { lines.push(this._foldLine(group, depth)); continue; }
        lines.push(this._line(group, depth));
        walk(group.id, depth + 1);
      }
    };
    walk("", 0);
    put(this._body, this._axis(), ...lines);
  }

  // The spans below one, runs of one name folded where they are long.
  _folded(parent) {
    const below = (this._children.get(parent) || []).filter((span) => !this._isPart(span, parent));
    const result = [];
    for (const name of new Set(below.map((span) => span.name))) {
      const same = below.filter((span) => span.name === name);
      const key = `${parent}/${name}`;
      if (same.length <= 2 * SHOWN || this._opened.has(key)) { result.push(...same); continue; }
      const middle = same.slice(SHOWN, -SHOWN);
      result.push(...same.slice(0, SHOWN), { folded: middle, key, name, start: middle[0].start }, ...same.slice(-SHOWN));
    }
    // What another service did meanwhile comes after what the service itself did.
    const home = this._spans.find((span) => span.id === parent)?.service;
    const isAway = (one) => home !== undefined && (one.folded?.[0] ?? one).service !== home;
    return result.sort((a, b) => isAway(a) - isAway(b) || a.start - b.start);
  }

  _isPart(span, parent) {
    return PART_NAMES.has(span.name) && this._spans.some((one) => one.id === parent && one.name === "round");
  }

  _line(span, depth) {
    const parts = (this._children.get(span.id) || []).filter((child) => this._isPart(child, span.id));
    return this._row(depth, h("span", {}, span.name), span.service, span.start, span.end - span.start,
      [bar(span, `service-${span.service}`, this._end), ...parts.map((part) => bar(part, `part-${part.name}`, this._end))],
      () => this._describe(span));
  }

  _foldLine(group, depth) {
    const { folded } = group;
    const total = folded.reduce((sum, span) => sum + span.end - span.start, 0);
    const label = h("span", { class: "muted" }, `… ${folded.length} more of ${group.name}`);
    const bars = folded.map((span) => bar(span, `service-${span.service} folded`, this._end));
    return this._row(depth, label, folded[0].service, folded[0].start, total, bars, () => { this._opened.add(group.key); this._draw(); });
  }

  _row(depth, label, service, start, took, bars, onclick) {
    const name = h("button", { type: "button", class: "span-name quiet", onclick }, label);
    name.style.paddingInlineStart = `${0.4 + depth * 1.1}rem`;
    return h("div", { class: "span-row", role: "row" },
      h("div", { role: "cell", class: "cell-name" }, name),
      h("div", { role: "cell", class: "muted small cell-service" }, service),
      h("div", { role: "cell", class: "num small" }, fixed(start)),
      h("div", { role: "cell", class: "num small" }, ms(took)),
      h("div", { role: "cell", class: "cell-bar" },
        svg("svg", { viewBox: "0 0 1000 14", preserveAspectRatio: "none", "aria-hidden": "true" }, bars)),
    );
  }

  _axis() {
    return h("div", { class: "span-row head", role: "row" },
      ["span", "service", "at ms", "took", ""].map((name, index) =>
        h("div", { role: "columnheader", class: "small muted" }, index < 4 ? name : h("span", { class: "axis" },
          h("span", {}, "0"), h("span", {}, ms(this._end / 2)), h("span", {}, ms(this._end))))));
  }

  _describe(span) {
    const facts = Object.entries(span.attributes).map(([name, value]) => [name.replace(/^specdec\.|^gen_ai\./, ""), String(value)]);
    const events = span.events.map((event) => [event.name.replace(/^specdec\./, ""), `at ${ms(event.at)}`]);
    const error = span.error ? [["error", span.error]] : [];
    put(this._detail, h("div", { class: "wide" }, h("dt", {}, span.name), h("dd", {}, `${span.service} ${span.instance}`)),
      ...[...error, ...facts, ...events].map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", { class: "num" }, value))));
  }

  // Where the time of all rounds went.
  _shares() {
    const rounds = this._spans.filter((span) => span.name === "round");
    if (!rounds.length) return null;
    const ids = new Set(rounds.map((span) => span.id));
    const total = rounds.reduce((sum, span) => sum + span.end - span.start, 0);
    const attribute = (name) => rounds.reduce((sum, span) => sum + (span.attributes[`specdec.round.${name}`] || 0), 0);
    const parts = PARTS.map((part) => ({
      ...part,
      ms: this._spans.reduce((sum, span) => (span.name === part.key && ids.has(span.parent) ? sum + span.end - span.start : sum), 0),
    }));
    const strip = h("div", { class: "share-strip", "aria-hidden": "true" });
    for (const part of parts) {
      const piece = h("span", { class: `part-${part.key}` });
      piece.style.flexGrow = part.ms;
      strip.append(piece);
    }
    return h("div", { class: "shares" },
      h("p", {}, `${rounds.length} rounds in ${ms(total)}: ${fixed(attribute("emitted_tokens") / rounds.length, 2)} tokens per pass; `
        + `guesses: ${attribute("drafted_nodes")} drafted, ${attribute("admitted_nodes")} checked, ${attribute("accepted_nodes")} right.`),
      strip,
      h("ul", {}, parts.map((part) => h("li", {},
        h("i", { class: `swatch part-${part.key}`, "aria-hidden": "true" }), `${part.name} ${fixed((100 * part.ms) / total, 0)} %`)),
        h("li", { class: "muted" }, `beside the rounds: draft ${ms(attribute("draft_ms"))}, wire ${ms(attribute("wire_ms"))}`)),
    );
  }
}

function bar(span, name, end) {
  const x = (1000 * span.start) / end;
  return svg("rect", { class: name, x, y: 1, height: 12, width: Math.max(1.2, (1000 * (span.end - span.start)) / end) });
}
