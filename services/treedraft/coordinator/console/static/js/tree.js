// Lays a round's tree out and draws it: the path that became text runs straight along the
// top, what was pruned hangs below it and fades.

import { put, svg } from "./dom.js";
import { percent, SOURCES, tokenLabel } from "./format.js";

const GAP = 36;
const NARROW_GAP = 22;
const PAD = 10;
const TARGET = 2;

// Nodes of a round with their place: `row`, `depth`, `kept`. The bonus token, which the
// target drew where the path ended, is a node like the others.
export function layout(round) {
  const kept = new Set(round.accepted);
  const nodes = round.texts.map((text, index) => ({
    index, text, source: round.sources[index], parent: round.parents[index],
    kept: kept.has(index), isBonus: false,
    chance: Math.min(1, Math.exp(round.scores[index] - (round.scores[round.parents[index]] ?? 0))),
    score: round.scores[index],
  }));
  if (round.bonus !== null) {
    nodes.push({
      index: nodes.length, text: round.bonus, source: TARGET, parent: round.accepted.at(-1) ?? -1,
      kept: true, isBonus: true, chance: NaN, score: 0,
    });
  }
  const children = new Map();
  for (const node of nodes) {
    if (!children.has(node.parent)) children.set(node.parent, []);
    children.get(node.parent).push(node);
  }
  for (const siblings of children.values()) siblings.sort((a, b) => b.kept - a.kept || b.score - a.score);
  let numRows = 1;
  const place = (parent, row, depth) => {
    (children.get(parent) || []).forEach((node, order) => {
      node.depth = depth;
      node.row = order === 0 ? row : numRows++;
      place(node.index, node.row, depth + 1);
    });
  };
  place(-1, 0, 1);
  return { nodes, numRows, depth: Math.max(0, ...nodes.map((node) => node.depth)) };
}

export class TreeView {
  constructor(container) {
    this._container = container;
    this._measure = document.createElement("canvas").getContext("2d");
  }

  show(round, rootText) {
    const { nodes, numRows, depth } = layout(round);
    const height = numRows > 14 ? 25 : 33;
    const size = numRows > 14 ? 11.5 : 13;
    this._measure.font = `${size}px "JetBrains Mono", monospace`;
    const root = { label: rootText, width: this._width(rootText) + 22 };
    const columns = new Array(depth + 1).fill(0);
    columns[0] = root.width;
    for (const node of nodes) {
      node.label = tokenLabel(node.text);
      node.note = node.isBonus ? "" : percent(node.chance).replace(" ", "");
      node.width = this._width(node.label) + (node.note ? this._width(node.note) * 0.82 + 7 : 0) + 32;
      columns[node.depth] = Math.max(columns[node.depth], node.width);
    }
    const left = [PAD];
    const gap = depth > 5 ? NARROW_GAP : GAP;
    for (let d = 1; d <= depth; d += 1) left[d] = left[d - 1] + columns[d - 1] + gap;
    const y = (row) => PAD + row * height + height / 2;
    const width = left[depth] + columns[depth] + PAD;
    const total = numRows * height + 2 * PAD;
    const edges = nodes.map((node) => {
      const above = nodes[node.parent];
      const x1 = above ? left[above.depth] + above.width : left[0] + root.width;
      const from = [x1, y(above ? above.row : 0)];
      const bend = Math.max(x1, left[node.depth] - gap) + gap / 2;
      return edge(node, from, [left[node.depth], y(node.row)], bend);
    });
    const drawing = svg("svg", {
      class: "tree", width, height: total, viewBox: `0 0 ${width} ${total}`,
      role: "img", "aria-label": inWords(round, nodes),
    },
      svg("g", {}, edges.sort((a, b) => a.kept - b.kept).map((e) => e.path)),
      pill(left[0], y(0), root.width, height, "root", [[root.label, "label"]], size),
      nodes.map((node) => this._node(node, left[node.depth], y(node.row), height, size)),
    );
    put(this._container, drawing);
    requestAnimationFrame(() => requestAnimationFrame(() => drawing.classList.add("settled")));
  }

  clear(content) {
    put(this._container, content);
  }

  _node(node, x, y, height, size) {
    const source = SOURCES[node.source];
    const fate = node.kept ? "kept" : "pruned";
    const parts = [[source.mark, "sign"], [node.label, "label"], ...(node.note ? [[node.note, "note"]] : [])];
    const group = pill(x, y, node.width, height, `node ${source.key} ${fate}`, parts, size);
    const about = node.isBonus
      ? "said by the target itself, where the path ended"
      : `${source.name}, thought ${percent(node.chance)} likely; ${node.kept ? "kept" : "pruned"}`;
    group.append(svg("title", {}, `“${node.text}”: ${about}`));
    return group;
  }

  _width(text) {
    return this._measure.measureText(text).width;
  }
}

function edge(node, [x1, y1], [x2, y2], bend) {
  const straight = Math.abs(y1 - y2) < 1;
  const radius = Math.min(9, Math.abs(y2 - y1) / 2);
  const d = straight
    ? `M${x1} ${y1}H${x2}`
    : `M${x1} ${y1}H${bend - radius}Q${bend} ${y1} ${bend} ${y1 + radius}V${y2 - radius}Q${bend} ${y2} ${bend + radius} ${y2}H${x2}`;
  const path = svg("path", { d, class: `edge ${SOURCES[node.source].key} ${node.kept ? "kept" : "pruned"}` });
  return { kept: node.kept, path };
}

function pill(x, y, width, rowHeight, classes, parts, size) {
  const height = rowHeight - 8;
  const group = svg("g", { class: classes });
  const round = classes.includes("lookup") ? 3 : height / 2;
  group.append(svg("rect", { x, y: y - height / 2, width, height, rx: round, class: "shape" }));
  if (classes.includes("target")) {
    group.append(svg("rect", {
      x: x + 2.5, y: y - height / 2 + 2.5, width: width - 5, height: height - 5, rx: height / 2 - 2.5, class: "inner",
    }));
  }
  const text = svg("text", { x: x + 11, y: y + size * 0.35, "font-size": size, "xml:space": "preserve" });
  parts.forEach(([content, name], index) => {
    text.append(svg("tspan", { class: name, dx: index ? 6 : null }, content));
  });
  group.append(text);
  return group;
}

function inWords(round, nodes) {
  const kept = nodes.filter((node) => node.kept).map((node) => `“${node.text}”`);
  return `Tree of the round: ${round.texts.length} guesses, path ${kept.join(" ")}`;
}

// One sentence for those who see a tree for the first time.
export function caption(round) {
  const guesses = round.texts.length;
  const right = round.accepted.length;
  const bonus = round.bonus === null ? "" : ` The target then said “${tokenLabel(round.bonus)}” itself.`;
  const total = right + (round.bonus === null ? 0 : 1);
  if (!guesses) return `No guess was at hand, so the target took a plain step: one pass, one token.`;
  const many = guesses === 1 ? "1 guess was" : `${guesses} guesses were`;
  const kept = right === 0 ? "none was what the target says" : right === 1 ? "1 was right and is text now" : `${right} were right and are text now`;
  return `${many} checked in one pass: ${kept}.${bonus} One pass, ${total === 1 ? "1 token" : `${total} tokens`}.`;
}
