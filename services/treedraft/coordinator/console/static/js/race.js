// The same prompt and seed with and without speculation. One after the other, since two at
// once would share passes and neither would show its own speed; while the second runs, the
// first is played again beside it in its own time.

import { answer } from "./api.js";
import { AnswerText, legend } from "./answer.js";
import { LineChart } from "./charts.js";
import { asked, promptBox } from "./controls.js";
import { h, put } from "./dom.js";
import { count, fixed, percent } from "./format.js";
import { problem } from "./problem.js";

const LOOKUP = 1;

export function racePage() {
  const page = new Race();
  return { element: page.element, leave: () => page.close(), redraw: () => page.chart.redraw() };
}

class Lane {
  constructor(title, about, name) {
    this.name = name;
    this.answer = new AnswerText({ label: title });
    this._time = h("span", { class: "num" });
    this._count = h("span", { class: "num muted" });
    this._bar = h("span", { class: `lane-fill ${name}` });
    this.element = h("section", { class: `card lane lane-${name}`, "aria-label": title },
      h("header", {}, h("h2", {}, title), h("span", { class: "muted small" }, about),
        h("span", { class: "push lane-time" }, this._count, " ", this._time)),
      h("div", { class: "lane-track" }, this._bar),
      this.answer.element,
    );
    this.clear();
  }

  clear() {
    this.events = [];
    this.startedAt = 0;
    this.statistics = null;
    this._show(0, 0, 1);
    this.answer.clear();
  }

  // The clock starts with the first token: the prompt of the second run may be in the cache.
  record(event, limit) {
    if (event.type === "delta" && !this.startedAt) this.startedAt = performance.now();
    const at = performance.now() - this.startedAt;
    if (event.type === "delta") {
      this.events.push({ at, pieces: event.pieces, tokens: event.num_tokens });
      this.play(this.events.length - 1, limit);
    }
    if (event.type === "finished") this.statistics = event.statistics;
  }

  play(place, limit) {
    const event = this.events[place];
    this.answer.add(event.pieces);
    this.answer.element.scrollTop = this.answer.element.scrollHeight;
    this._show(event.at, event.tokens, limit);
  }

  // Which part of the text was copied from earlier text.
  get copied() {
    const sources = new Map(this.events.flatMap((event) => event.pieces.map((piece) => [piece[0], piece[1]])));
    return [...sources.values()].filter((source) => source === LOOKUP).length / (sources.size || 1);
  }

  get text() {
    return this.events.flatMap((event) => event.pieces.map((piece) => piece[2])).join("");
  }

  get duration() {
    return this.events.at(-1)?.at ?? NaN;
  }

  get tokens() {
    return this.events.at(-1)?.tokens ?? 0;
  }

  _show(at, tokens, limit) {
    put(this._time, `${fixed(at / 1000, 2)} s`);
    put(this._count, tokens ? count(tokens, "token") : "");
    this._bar.style.width = `${Math.min(100, (100 * tokens) / limit)}%`;
  }
}

class Race {
  constructor() {
    this._box = promptBox({ onRun: () => this.run(), onStop: () => this.stop(), runLabel: "Start the race", withSpeculation: false });
    this._plain = new Lane("Without speculation", "one token for each pass", "plain");
    this._fast = new Lane("With speculation", "as many tokens as were guessed right", "fast");
    this._verdict = h("div", { class: "verdict", role: "status" });
    this.chart = new LineChart({
      title: "Tokens over time",
      series: [
        { label: "with speculation", colour: "--draft" },
        { label: "without", colour: "--target", dash: [6, 4] },
      ],
      format: (value) => String(Math.round(value)), time: false, xFormat: (value) => `${fixed(value, 1)} s`, height: 180,
    });
    this.element = h("div", { class: "race" },
      h("div", { class: "lede" }, h("h1", {}, "Race"),
        h("p", {}, "The same prompt, the same seed, one after the other; while the second runs, the first is shown again in its own time. Clocks start with the first token, and both texts have to be the same.")),
      this._box.element,
      this._verdict,
      h("div", { class: "lanes" }, this._fast.element, this._plain.element),
      legend(),
      h("section", { class: "card" }, this.chart.element),
    );
    put(this._verdict, h("span", { class: "muted" }, "Nobody has run yet."));
  }

  async run() {
    this.stop();
    this._abort = new AbortController();
    const { signal } = this._abort;
    this._plain.clear();
    this._fast.clear();
    this.chart.show([[], [], []]);
    this._box.setRunning(true);
    try {
      put(this._verdict, h("span", {}, "First run: without speculation…"));
      const seed = await this._drive(this._plain, false, undefined, signal);
      put(this._verdict, h("span", {}, "Second run: with speculation; the first is shown again beside it…"));
      await this._together(seed, signal);
      this._judge();
    } catch (error) {
      if (signal.aborted) put(this._verdict, h("span", { class: "muted" }, "Stopped."));
      else { put(this._verdict, h("span", { class: "muted" }, "The race was broken off.")); problem(error); }
    } finally {
      if (this._abort?.signal === signal) this._box.setRunning(false);
    }
  }

  async _drive(lane, speculate, seed, signal) {
    const { path, body } = asked(seed === undefined ? { speculate } : { speculate, seed });
    let drawn = seed;
    const limit = JSON.parse(body).max_tokens;
    for await (const event of answer(path, body, signal)) {
      if (event.type === "started") drawn = event.seed;
      lane.record(event, limit);
      this._plot();
    }
    return drawn;
  }

  async _together(seed, signal) {
    this._plain.answer.clear();
    let place = 0;
    const events = this._plain.events;
    const limit = this._plain.tokens;
    const play = () => {
      const at = this._fast.startedAt ? performance.now() - this._fast.startedAt : 0;
      while (place < events.length && events[place].at <= at) this._plain.play(place++, limit);
      if (place < events.length && !signal.aborted) requestAnimationFrame(play);
      else this._replayed?.();
    };
    const replay = new Promise((resolve) => { this._replayed = resolve; });
    requestAnimationFrame(play);
    await this._drive(this._fast, true, seed, signal);
    await replay;
    signal.throwIfAborted();
  }

  _plot() {
    const times = [...this._plain.events, ...this._fast.events].map((event) => event.at);
    const at = [...new Set(times)].sort((a, b) => a - b);
    const line = (lane) => {
      const by = new Map(lane.events.map((event) => [event.at, event.tokens]));
      return at.map((time) => by.get(time));
    };
    const joined = (values) => values.map((value) => (value === undefined ? undefined : value));
    this.chart.show([at.map((time) => time / 1000), joined(line(this._fast)), joined(line(this._plain))]);
  }

  _judge() {
    const ratio = this._plain.duration / this._fast.duration;
    const same = this._plain.text === this._fast.text;
    const faster = ratio >= 1;
    const factor = fixed(faster ? ratio : 1 / ratio, 2);
    put(this._verdict,
      h("strong", { class: "num" }, `${factor} ×`),
      h("span", {}, faster ? "faster with speculation" : "slower with speculation: on this machine, now, it does not pay"),
      h("span", { class: same ? "chip good" : "chip bad" },
        same ? `✓ the same text, all ${this._fast.tokens} tokens` : "the texts differ: look for a tie, or the rule “rejection”"),
      h("span", { class: "chip" }, `${fixed(this._fast.statistics?.tokens_per_round, 2)} tokens per pass`),
      h("span", { class: "chip" }, `${fixed(this._fast.statistics?.tokens_per_second)} against ${fixed(this._plain.statistics?.tokens_per_second)} tokens a second`),
      this._fast.copied > 0.5 ? h("p", { class: "small muted" },
        `${percent(this._fast.copied)} of the text was copied by lookup, which remembers earlier answers: this prompt was asked before. Change it for a race from scratch.`) : null,
    );
  }

  stop() {
    this._abort?.abort();
    this._box.setRunning(false);
  }

  close() {
    this.stop();
    this.chart.close();
  }
}
