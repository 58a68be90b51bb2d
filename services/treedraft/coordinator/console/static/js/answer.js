// The answer as it comes: each token under its own style, by where it came from.
// A token can be chosen, by mouse or arrow keys, and then shows its round.

import { h, put } from "./dom.js";
import { SOURCES } from "./format.js";

export class AnswerText {
  constructor({ onChoose = () => {}, label = "Answer" } = {}) {
    this._onChoose = onChoose;
    this._tokens = [];
    this._chosen = -1;
    this.element = h("div", {
      class: "answer", tabindex: "0", role: "group", "aria-label": `${label}; arrow keys go from token to token`,
      onclick: (event) => this._choose(this._tokens.indexOf(event.target.closest(".tok"))),
      onkeydown: (event) => this._step(event),
    });
    this.clear();
  }

  get text() {
    return this._tokens.map((token) => token.textContent).join("");
  }

  clear(hint = "") {
    this._tokens = [];
    this._chosen = -1;
    put(this.element, hint ? h("p", { class: "muted" }, hint) : null);
  }

  // Pieces are [token index, source, text]; text of one token may come in two.
  add(pieces) {
    for (const [index, source, text] of pieces) {
      const last = this._tokens.at(-1);
      if (last && Number(last.dataset.index) === index) {
        last.append(text);
        continue;
      }
      const token = h("span", { class: `tok ${SOURCES[source].key}` }, text);
      token.dataset.index = index;
      token.title = SOURCES[source].name;
      if (!this._tokens.length) this.element.replaceChildren();
      this._tokens.push(token);
      this.element.append(token);
    }
  }

  // Frames the tokens of one round, by their indices.
  mark(first, end) {
    for (const token of this._tokens) {
      const index = Number(token.dataset.index);
      token.classList.toggle("of-round", index >= first && index < end);
    }
  }

  _choose(place) {
    if (place < 0) return;
    this._tokens[this._chosen]?.classList.remove("chosen");
    this._chosen = place;
    this._tokens[place].classList.add("chosen");
    this._onChoose(Number(this._tokens[place].dataset.index));
  }

  _step(event) {
    const move = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (move === undefined || !this._tokens.length) return;
    event.preventDefault();
    const from = this._chosen < 0 ? (move > 0 ? -1 : this._tokens.length) : this._chosen;
    this._choose(Math.max(0, Math.min(this._tokens.length - 1, from + move)));
  }
}

export function legend() {
  return h("ul", { class: "legend", "aria-label": "Where tokens come from" },
    SOURCES.map((source) =>
      h("li", { title: source.about },
        h("span", { class: `mark ${source.key}`, "aria-hidden": "true" }, source.mark),
        h("span", { class: `tok ${source.key}` }, source.name),
        h("span", { class: "muted" }, source.about),
      )),
  );
}
