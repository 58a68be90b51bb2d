// How the cluster is: workers, memory, acceptance over time, and the caller's own sessions.

import { ask } from "./api.js";
import { LineChart } from "./charts.js";
import { h, put } from "./dom.js";
import { clock, count, fixed, percent } from "./format.js";
import { problem } from "./problem.js";

const EVERY_MS = 1000;
const MAX_POINTS = 900;

export function clusterPage() {
  const page = new Cluster();
  return { element: page.element, leave: () => page.close(), redraw: () => page.redraw() };
}

class Cluster {
  constructor() {
    this._workers = h("div", { class: "table-box" });
    this._running = h("div", { class: "table-box" });
    this._models = h("p", { class: "muted" });
    this._charts = {
      tokens_per_second: new LineChart({ title: "Tokens a second", series: [{ label: "", colour: "--target" }], format: (v) => fixed(v, v < 10 ? 1 : 0) }),
      tokens_per_round: new LineChart({ title: "Acceptance: tokens per pass", series: [{ label: "", colour: "--draft" }], format: (v) => fixed(v, 1) }),
      kv_share: new LineChart({ title: "KV memory in use", series: [{ label: "", colour: "--lookup" }], format: percent }),
      sessions: new LineChart({ title: "Sessions here", series: [{ label: "running", colour: "--part-walk" }], format: (v) => fixed(v, v < 2 ? 1 : 0) }),
    };
    this.element = h("div", { class: "cluster" },
      h("div", { class: "lede" }, h("h1", {}, "Cluster"), this._models),
      h("div", { class: "charts" }, Object.values(this._charts).map((chart) => h("section", { class: "card" }, chart.element))),
      h("section", { class: "card", "aria-labelledby": "workers-title" },
        h("header", {}, h("h2", { id: "workers-title" }, "Workers"), h("span", { class: "muted small" }, "speed and acceptance over their last half minute")),
        this._workers),
      h("section", { class: "card", "aria-labelledby": "sessions-title" },
        h("header", {}, h("h2", { id: "sessions-title" }, "Your sessions"), h("span", { class: "muted small" }, "running at this coordinator; no other tenant’s")),
        this._running),
    );
    this._isOpen = true;
    this._history = { time: [] };
    this._poll();
  }

  redraw() {
    Object.values(this._charts).forEach((chart) => chart.redraw());
  }

  close() {
    this._isOpen = false;
    clearTimeout(this._timer);
    Object.values(this._charts).forEach((chart) => chart.close());
  }

  async _poll() {
    let wait = EVERY_MS;
    try {
      this._show(await ask(`overview?since=${this._history.time.at(-1) ?? 0}`));
    } catch (error) {
      if (this._isOpen) problem(error);
      wait = 5 * EVERY_MS;
    }
    if (this._isOpen) this._timer = setTimeout(() => this._poll(), wait);
  }

  _show(seen) {
    if (!this._isOpen) return;
    const names = seen.models.map((m) => `${m.model} (${count(m.num_targets, "target")}, ${count(m.num_drafters, "drafter")})`);
    put(this._models, names.length ? names.join(", ") : "No target serves a model yet.");
    for (const [name, values] of Object.entries(seen.history)) {
      this._history[name] = [...(this._history[name] || []), ...values].slice(-MAX_POINTS);
    }
    for (const [name, chart] of Object.entries(this._charts)) chart.show([this._history.time, this._history[name]]);
    put(this._workers, table(
      ["Worker", "Role", "Model", "Sessions", "Waiting", "KV memory", "Tokens/s", "Tokens per pass", "Late guesses"],
      seen.workers.map(workerRow), "No worker has announced itself."));
    put(this._running, table(
      ["Session", "Began", "Model", "Tokens", "Per pass", "Target", "Drafters", "Moves", "Trace"],
      seen.running.map(sessionRow), "Nothing of yours is running."));
  }
}

function workerRow(worker) {
  const isTarget = worker.role === "target";
  const used = worker.total_kv_blocks ? 1 - worker.free_kv_blocks / worker.total_kv_blocks : NaN;
  return [
    h("code", {}, worker.worker_id),
    h("span", { class: `role ${worker.role}` }, worker.role, worker.is_draining ? " · draining" : ""),
    worker.model || "lookup",
    worker.max_sessions ? `${worker.num_sessions} / ${worker.max_sessions}` : String(worker.num_sessions),
    isTarget ? String(worker.num_waiting) : "",
    Number.isFinite(used) ? meter(used) : "",
    isTarget ? fixed(worker.signals.tokens_per_second) : "",
    isTarget ? fixed(worker.signals.tokens_per_round, 2) : "",
    isTarget ? percent(worker.signals.late_draft_share) : "",
  ];
}

function sessionRow(view) {
  return [
    h("code", {}, view.session || "waiting"),
    clock(view.began_at), view.model, `${view.prompt_tokens} + ${view.output_tokens}`,
    fixed(view.tokens_per_round, 2), h("code", {}, view.target), view.drafters.join(", ") || "none", String(view.num_moves),
    view.trace_id ? h("a", { href: `#/traces/${view.trace_id}` }, "trace") : "",
  ];
}

function meter(share) {
  const fill = h("span");
  fill.style.width = `${Math.round(share * 100)}%`;
  return h("span", { class: "meter-row" },
    h("span", { class: "meter", role: "img", "aria-label": `${percent(share)} in use` }, fill), percent(share));
}

export function table(heads, rows, empty) {
  if (!rows.length) return h("p", { class: "muted" }, empty);
  return h("table", {},
    h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell))))),
  );
}
