// The page that shows speculation at work: a prompt, the text by origin, the tree of a round,
// and where its time went.

import { answer } from "./api.js";
import { AnswerText, legend } from "./answer.js";
import { asked, promptBox } from "./controls.js";
import { h, put, svg } from "./dom.js";
import { count, fixed, ms, percent, SOURCES, tokenLabel } from "./format.js";
import { RoundBars } from "./rounds.js";
import { caption, TreeView } from "./tree.js";
import { problem } from "./problem.js";

const DWELL_MS = 260;

export function watchPage() {
  const page = new Watch();
  return { element: page.element, leave: () => page.stop(), redraw: () => page.redraw() };
}

class Watch {
  constructor() {
    this._box = promptBox({ onRun: () => this.run(), onStop: () => this.stop(), runLabel: "Generate" });
    this._answer = new AnswerText({ onChoose: (index) => this._selectToken(index) });
    this._bars = new RoundBars({ onSelect: (round) => this._select(round) });
    this._canvas = h("div", { class: "tree-canvas", tabindex: "0", role: "region", "aria-label": "Tree of the round" });
    this._tree = new TreeView(this._canvas);
    this._caption = h("p", { class: "caption" });
    this._figures = h("dl", { class: "figures" });
    this._origin = h("div", { class: "origin", role: "img" });
    this._status = h("span", { class: "muted small", role: "status" });
    this._end = h("p", { class: "ending muted small" });
    this._buildStepper();
    this._reset();
    this.element = this._build();
    this._answer.clear("Ask something: the text appears here, each token marked by who came up with it.");
    this._tree.clear(primer());
    put(this._caption, "Generate a text to watch its rounds. Then choose a round, or a token, to see how it came about.");
  }

  _build() {
    return h("div", { class: "watch" },
      h("div", { class: "lede" },
        h("h1", {}, "Watch a text being written"),
        h("p", {}, "A small model guesses ahead as a tree. The large model checks the whole tree in one pass and keeps what it would have said anyway: the same text, in fewer passes."),
      ),
      h("div", { class: "columns" },
        h("div", { class: "column" },
          this._box.element,
          h("section", { class: "card", "aria-labelledby": "answer-title" },
            h("header", {}, h("h2", { id: "answer-title" }, "Answer"), this._status),
            this._answer.element,
            this._end,
            this._origin,
            legend(),
          ),
        ),
        h("div", { class: "column" },
          h("section", { class: "card figures-card", "aria-label": "Figures" }, this._figures),
          h("section", { class: "card", "aria-labelledby": "tree-title" },
            h("header", {}, h("h2", { id: "tree-title" }, "The tree of one round"), this._stepper),
            this._caption,
            this._canvas,
          ),
          h("section", { class: "card", "aria-labelledby": "bars-title" },
            h("header", {}, h("h2", { id: "bars-title" }, "Where the time went"),
              h("span", { class: "muted small" }, "a bar per round; the thin one is the drafter, at the same time")),
            this._bars.element,
          ),
        ),
      ),
    );
  }

  _buildStepper() {
    const go = (change) => () => this._select((this._selected < 0 ? this._rounds.length - 1 : this._selected) + change);
    this._range = h("input", {
      type: "range", min: 0, max: 0, value: 0, "aria-label": "Round", id: "round-range",
      oninput: (event) => this._select(Number(event.target.value)),
    });
    this._number = h("span", { class: "num small muted round-number" });
    this._follow = h("button", { type: "button", class: "quiet small", id: "follow", "aria-pressed": "true", onclick: () => this._followNewest() }, "Follow");
    this._stepper = h("div", { class: "stepper push" },
      h("button", { type: "button", class: "icon quiet", "aria-label": "Round before", onclick: go(-1) }, "‹"),
      this._range,
      h("button", { type: "button", class: "icon quiet", "aria-label": "Round after", onclick: go(1) }, "›"),
      this._number, this._follow,
    );
  }

  _reset() {
    this._rounds = [];
    this._selected = -1;
    this._isFollowing = true;
    this._counts = [0, 0, 0];
    this._texts = [];
    this._numTokens = 0;
    this._startedAt = this._firstAt = this._firstTokens = 0;
    this._statistics = null;
    this._trace = "";
    this._shownAt = 0;
    this._isScheduled = false;
    put(this._end);
    this._showFigures();
    this._showOrigin();
  }

  async run() {
    this.stop();
    this._abort = new AbortController();
    const { signal } = this._abort;
    this._reset();
    this._answer.clear();
    this._box.setRunning(true);
    put(this._status, "waiting for the first token…");
    this._startedAt = performance.now();
    try {
      const { path, body } = asked();
      for await (const event of answer(path, body, signal)) {
        signal.throwIfAborted(); // what has arrived already is not shown either
        this._take(event);
      }
      signal.throwIfAborted();
    } catch (error) {
      if (signal.aborted) put(this._status, "stopped");
      else { put(this._status, "failed"); problem(error); }
    } finally {
      if (this._abort?.signal === signal) {
        this._box.setRunning(false);
        this._draw();
      }
    }
  }

  stop() {
    this._abort?.abort();
    this._box.setRunning(false);
  }

  redraw() {
    this._bars.show(this._rounds, this._selected);
  }

  _take(event) {
    if (event.type === "started") {
      this._trace = event.trace_id;
      put(this._status, `seed ${event.seed} · ${count(event.prompt_tokens, "prompt token")}`);
    } else if (event.type === "delta") {
      this._answer.add(event.pieces);
      this._answer.element.scrollTop = this._answer.element.scrollHeight;
      for (const [index, source, text] of event.pieces) {
        if (this._texts[index] === undefined) this._counts[source] += 1;
        this._texts[index] = (this._texts[index] || "") + text;
      }
      if (!this._firstAt) { this._firstAt = performance.now(); this._firstTokens = event.num_tokens; }
      this._numTokens = event.num_tokens;
      this._rounds.push(...event.rounds);
      if (this._isFollowing) this._selected = this._rounds.length - 1;
      this._schedule();
    } else if (event.type === "finished") {
      this._statistics = event.statistics;
      this._firstTokenMs = event.first_token_ms;
      put(this._end, ending(event), this._trace ? h("a", { href: `#/traces/${this._trace}` }, "its trace") : null);
      this._draw();
    }
  }

  // A tree stays for a moment, or nobody could see it; text and bars are always up to date.
  _schedule() {
    if (this._isScheduled) return;
    this._isScheduled = true;
    const wait = Math.max(0, DWELL_MS - (performance.now() - this._shownAt));
    setTimeout(() => { this._isScheduled = false; this._draw(); }, wait);
  }

  _draw() {
    this._shownAt = performance.now();
    this._showFigures();
    this._showOrigin();
    this._bars.show(this._rounds, this._selected);
    this._range.max = Math.max(0, this._rounds.length - 1);
    this._range.value = Math.max(0, this._selected);
    this._range.setAttribute("aria-valuetext", `round ${this._selected + 1} of ${this._rounds.length}`);
    this._follow.setAttribute("aria-pressed", String(this._isFollowing));
    put(this._number, this._rounds.length ? `${this._selected + 1} / ${this._rounds.length}` : "");
    const round = this._rounds[this._selected];
    if (!round) return;
    const end = round.base + round.accepted.length + (round.bonus === null ? 0 : 1);
    this._answer.mark(round.base, end);
    put(this._caption, caption(round), round.late ? ` ${count(round.late, "guess", "guesses")} came too late.` : "");
    this._tree.show(round, this._context(round.base));
  }

  _context(base) {
    if (base <= 0) return "prompt";
    const before = this._texts.slice(Math.max(0, base - 3), base).join("");
    const label = tokenLabel(before, 60);
    return label.length > 15 ? `…${label.slice(-14)}` : label;
  }

  _select(round) {
    if (!this._rounds.length) return;
    this._selected = Math.max(0, Math.min(this._rounds.length - 1, round));
    this._isFollowing = false;
    this._draw();
  }

  _selectToken(index) {
    const place = this._rounds.findLastIndex((round) => round.base <= index);
    if (place >= 0) this._select(place);
  }

  _followNewest() {
    this._isFollowing = true;
    this._selected = this._rounds.length - 1;
    this._draw();
  }

  _showFigures() {
    const rounds = this._rounds.length;
    const perPass = this._statistics?.tokens_per_round ?? this._numTokens / rounds;
    const since = (performance.now() - this._firstAt) / 1000;
    const speed = this._statistics?.tokens_per_second
      ?? (this._firstAt && since > 0.2 ? (this._numTokens - this._firstTokens) / since : NaN);
    const first = this._statistics ? this._firstTokenMs : this._firstAt ? this._firstAt - this._startedAt : NaN;
    const saved = this._numTokens && rounds ? 1 - rounds / this._numTokens : NaN;
    const tiles = [
      ["tokens per pass", fixed(perPass, 2), "1 without speculation"],
      ["passes saved", percent(saved), rounds ? `${count(this._numTokens, "token")} in ${count(rounds, "pass", "passes")}` : "of the large model"],
      ["tokens a second", fixed(speed, 1), "after the first"],
      ["first token", ms(first), "after the request"],
    ];
    put(this._figures, ...tiles.map(([name, value, note]) =>
      h("div", {}, h("dt", {}, name), h("dd", { class: "num" }, value), h("dd", { class: "note" }, note))));
  }

  _showOrigin() {
    const total = this._counts.reduce((a, b) => a + b, 0);
    const shares = this._counts.map((number) => (total ? number / total : 0));
    const words = SOURCES.map((source, index) => `${source.name} ${percent(shares[index])}`).join(", ");
    this._origin.setAttribute("aria-label", `Origin of tokens: ${words}`);
    this._origin.hidden = !total;
    put(this._origin, ...SOURCES.map((source, index) => {
      const bar = h("span", { class: source.key }, shares[index] > 0.12 ? `${source.mark} ${percent(shares[index])}` : "");
      bar.style.flexGrow = shares[index];
      bar.hidden = !shares[index];
      return bar;
    }));
  }
}

function ending(event) {
  const why = { stop: "The text ended by itself.", length: "The text reached its length.", cancelled: "The text was stopped." };
  return `${why[event.reason] || event.reason} `;
}

// What is seen before there is anything to see: how to read the picture.
function primer() {
  const text = (x, y, words, name = "") => svg("text", { x, y, class: name }, words);
  const node = (x, y, width, mark, words, name) => svg("g", { class: name },
    svg("rect", { x, y: y - 13, width, height: 26, rx: name.includes("lookup") ? 3 : 13, class: "shape" }),
    svg("text", { x: x + 12, y: y + 4.5 }, mark ? svg("tspan", { class: "sign" }, mark) : null,
      svg("tspan", { dx: mark ? 6 : 0 }, words)));
  const step = (y, number, words) => svg("g", {},
    svg("circle", { cx: 22, cy: y - 4, r: 9, class: "step" }), text(18.5, y, number, "hint strong"), text(42, y, words, "hint"));
  return svg("svg", {
    class: "primer settled", viewBox: "0 0 520 206", role: "img",
    "aria-label": "How to read the tree: the text so far on the left, guesses to the right; the path that the target agrees with is lit, the others fade.",
  },
    text(12, 16, "text so far", "hint"), text(126, 16, "guesses", "hint"), text(386, 16, "the target’s own word", "hint"),
    svg("path", { class: "edge draft kept", d: "M92 40H126M200 40H250" }),
    svg("path", { class: "edge target kept", d: "M318 40H386" }),
    svg("path", { class: "edge draft pruned", d: "M92 40H100Q109 40 109 49V73Q109 82 118 82H126" }),
    svg("path", { class: "edge lookup pruned", d: "M200 40H216Q225 40 225 49V73Q225 82 234 82H250" }),
    node(12, 40, 80, "", "The cat", "root"), node(126, 40, 74, "●", "sat", "node draft kept"),
    node(250, 40, 68, "●", "on", "node draft kept"), node(386, 40, 74, "○", "the", "node target kept"),
    node(126, 82, 74, "●", "ran", "node draft pruned"), node(250, 82, 106, "◆", "quietly", "node lookup pruned"),
    step(138, "1", "The drafter grows guesses, the likeliest first."),
    step(164, "2", "The target checks all of them in one pass."),
    step(190, "3", "The path it agrees with becomes text; the rest is pruned."),
  );
}
