// Recent requests, and where the time of one of them went.

import { ask } from "./api.js";
import { table } from "./cluster.js";
import { h, put } from "./dom.js";
import { clock, fixed, ms } from "./format.js";
import { problem } from "./problem.js";
import { Waterfall } from "./waterfall.js";

export function tracesPage(traceId) {
  const page = traceId ? oneTrace(traceId) : allTraces();
  return { element: page, leave: () => {}, redraw: () => {} };
}

function allTraces() {
  const list = h("div", { class: "table-box" }, h("p", { class: "muted" }, "Looking…"));
  ask("traces").then((found) => put(list, traceTable(found))).catch((error) => { put(list); problem(error); });
  return h("div", { class: "traces" },
    h("div", { class: "lede" }, h("h1", {}, "Traces"),
      h("p", {}, "Each traced request is a waterfall of spans over all services: admission, placement, prefill, then every round.")),
    h("section", { class: "card" }, list));
}

function traceTable({ requests, stored }) {
  const known = new Map(requests.map((view) => [view.trace_id, view]));
  const rows = requests.map((view) => ({ id: view.trace_id, at: view.began_at, ms: view.seconds * 1000, view }));
  for (const trace of stored) {
    if (!known.has(trace.trace_id)) rows.push({ id: trace.trace_id, at: trace.start_ns / 1e9, ms: trace.duration_ms, trace });
  }
  rows.sort((a, b) => b.at - a.at);
  return table(
    ["Request", "Began", "Took", "Model", "Tokens", "Per pass", "Ended by"],
    rows.map(({ id, at, ms: took, view, trace }) => [
      h("a", { href: `#/traces/${id}` }, h("code", {}, id.slice(0, 12))),
      clock(at), ms(took),
      view ? view.model : h("span", { class: "muted" }, `${trace.name}, ${trace.num_spans} spans`),
      view ? `${view.prompt_tokens} + ${view.output_tokens}` : "",
      view ? fixed(view.tokens_per_round, 2) : "", view ? view.outcome : "",
    ]),
    "No traced request yet. Requests of this console are always traced; spans are kept locally unless a collector is set.");
}

function oneTrace(traceId) {
  const body = h("section", { class: "card" }, h("p", { class: "muted" }, "Looking…"));
  const title = h("code", {}, traceId.slice(0, 16));
  const tell = h("p");
  load(traceId).then((trace) => {
    put(body, new Waterfall(trace).element);
    put(tell, `${clock(trace.began_at)}, ${trace.spans.length} spans`);
  }).catch((error) => { put(body, h("p", { class: "muted" }, error.message)); if (error.status !== 404) problem(error); });
  return h("div", { class: "traces" },
    h("div", { class: "lede" }, h("h1", {}, "Trace ", title), tell, h("a", { href: "#/traces", class: "small" }, "all traces")),
    body);
}

// Spans leave their services a moment after they end; a fresh trace is asked for again.
async function load(traceId) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      const trace = await ask(`traces/${encodeURIComponent(traceId)}`);
      if (isWhole(trace.spans) || attempt > 8) return trace;
    } catch (error) {
      if (error.status !== 404 || attempt > 8) throw error;
    }
    await new Promise((resolve) => { setTimeout(resolve, 300); });
  }
}

// A service's spans come together, a target's when its session is over: until then those
// that were placed have no session, or rounds that belong to none.
function isWhole(spans) {
  const names = new Set(spans.map((span) => span.name));
  const ids = new Set(spans.map((span) => span.id));
  const areKnown = spans.every((span) => span.name === "generate" || !span.parent || ids.has(span.parent));
  return names.has("generate") && areKnown && (names.has("session") || !names.has("place"));
}
