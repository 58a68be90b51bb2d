// The prompt box with its sampling controls; what Watch and Race share. It remembers
// what was set for as long as the page is open.

import { freshId, h, put } from "./dom.js";

const models = [];
const kept = {
  model: "",
  prompt: "Explain to a child why the sky is blue. Use short sentences.",
  system: "",
  raw: false,
  temperature: 0,
  top_p: 1,
  top_k: 0,
  min_p: 0,
  max_tokens: 120,
  seed: "",
  repetition_penalty: 1,
  presence_penalty: 0,
  frequency_penalty: 0,
  stop: "",
  ignore_eos: false,
  speculate: true,
  max_nodes: "",
  max_depth: "",
  verification: "coupled",
};

// Says which models there are; a box asks for one where there are several.
export function offerModels(names) {
  models.splice(0, models.length, ...names);
  if (!models.includes(kept.model)) kept.model = models[0] || "";
  document.dispatchEvent(new Event("models"));
}

const FINE = [
  ["top_k", "Top-k", "Keep the k best tokens; 0 keeps all.", { min: 0, step: 1 }],
  ["min_p", "Min-p", "Drop tokens below this share of the best.", { min: 0, max: 1, step: 0.01 }],
  ["repetition_penalty", "Repetition penalty", "Above 1, tokens that were there become less likely.", { min: 0.05, step: 0.05 }],
  ["presence_penalty", "Presence penalty", "Taken off once per token.", { min: -2, max: 2, step: 0.1 }],
  ["frequency_penalty", "Frequency penalty", "Taken off per occurrence.", { min: -2, max: 2, step: 0.1 }],
  ["max_nodes", "Nodes per pass", "Guesses in one pass, at most; empty leaves it to the server.", { min: 0, max: 256, step: 1 }],
  ["max_depth", "Depth of trees", "How far ahead, at most; empty leaves it to the server.", { min: 0, max: 64, step: 1 }],
];

export function promptBox({ onRun, onStop, runLabel, withSpeculation = true }) {
  const run = h("button", { type: "submit", class: "primary", id: "run" }, runLabel);
  const stop = h("button", { type: "button", id: "stop", disabled: true, onclick: () => onStop() }, "Stop");
  const prompt = h("textarea", {
    id: "prompt", rows: 3, value: kept.prompt, spellcheck: "false",
    oninput: (event) => { kept.prompt = event.target.value; },
    onkeydown: (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        form.requestSubmit();
      }
    },
  });
  const form = h("form", {
    class: "prompt-box card", novalidate: true,
    onsubmit: (event) => { event.preventDefault(); if (!run.disabled) onRun(); },
  },
    h("label", { class: "hidden-visually", for: "prompt" }, "Prompt"),
    prompt,
    h("div", { class: "knobs" },
      slider("temperature", "Temperature", { min: 0, max: 2, step: 0.05 }, "0 takes the most likely token"),
      slider("top_p", "Top-p", { min: 0.05, max: 1, step: 0.01 }, "keep the best tokens up to this mass"),
      slider("max_tokens", "Length", { min: 8, max: 512, step: 8 }, "tokens, at most"),
      modelChoice(),
      field("seed", "Seed", "drawn if empty", { inputmode: "numeric", pattern: "[0-9]*", placeholder: "any" }),
    ),
    h("div", { class: "row" },
      withSpeculation ? check("speculate", "Speculation") : null,
      check("raw", "Continue the text as it is"),
      fine(),
      h("div", { class: "row push" }, stop, run),
    ),
  );
  const setRunning = (isRunning) => { run.disabled = isRunning; stop.disabled = !isRunning; };
  return { element: form, setRunning, focus: () => prompt.focus() };
}

function modelChoice() {
  const id = freshId("model");
  const select = h("select", { id, name: "model", onchange: (event) => { kept.model = event.target.value; } });
  const element = h("div", { class: "field" }, h("label", { for: id }, "Model"), select);
  const fill = () => {
    element.hidden = models.length < 2;
    put(select, ...models.map((name) => h("option", { value: name }, name)));
    select.value = kept.model;
  };
  document.addEventListener("models", () => { if (element.isConnected) fill(); });
  fill();
  return element;
}

function slider(name, label, range, about) {
  const id = freshId(name);
  const shown = h("output", { for: id, class: "num" }, String(kept[name]));
  return h("div", { class: "field" },
    h("label", { for: id }, label, shown),
    h("input", {
      id, type: "range", name, ...range, value: kept[name], title: about,
      oninput: (event) => { kept[name] = Number(event.target.value); shown.textContent = event.target.value; },
    }),
  );
}

function field(name, label, about, more = {}, type = "text") {
  const id = freshId(name);
  return h("div", { class: "field" },
    h("label", { for: id }, label),
    h("input", {
      id, type, name, value: kept[name], title: about, autocomplete: "off", ...more,
      oninput: (event) => { kept[name] = event.target.value; },
    }),
  );
}

function check(name, label) {
  const box = h("input", {
    type: "checkbox", name, checked: kept[name],
    onchange: (event) => { kept[name] = event.target.checked; },
  });
  return h("label", { class: "check" }, box, label);
}

function fine() {
  const id = freshId("verification");
  const rule = h("select", { id, name: "verification", onchange: (e) => { kept.verification = e.target.value; } },
    h("option", { value: "coupled" }, "coupled draw: the very same text"),
    h("option", { value: "rejection" }, "rejection sampling: the same law"),
  );
  rule.value = kept.verification;
  return h("details", { class: "fine" },
    h("summary", {}, "More controls"),
    h("div", { class: "fine-grid" },
      ...FINE.map(([name, label, about, range]) => field(name, label, about, range, "number")),
      field("stop", "Stop at", "Text that ends the answer."),
      field("system", "System message", "Said to the model before the prompt."),
      h("div", { class: "field" }, h("label", { for: id }, "Verification"), rule),
      check("ignore_eos", "Go on past the end of the answer"),
    ),
  );
}

// What is asked, as the API takes it: the path and the body.
export function asked({ speculate = kept.speculate, seed = kept.seed } = {}) {
  const body = {
    temperature: kept.temperature,
    top_p: kept.top_p,
    top_k: whole(kept.top_k) ?? 0,
    min_p: number(kept.min_p) ?? 0,
    max_tokens: kept.max_tokens,
    repetition_penalty: number(kept.repetition_penalty) ?? 1,
    presence_penalty: number(kept.presence_penalty) ?? 0,
    frequency_penalty: number(kept.frequency_penalty) ?? 0,
    ignore_eos: kept.ignore_eos,
    verification: kept.verification,
    speculation: { enabled: speculate, max_nodes: whole(kept.max_nodes), max_depth: whole(kept.max_depth) },
    ...(kept.stop ? { stop: [kept.stop] } : {}),
    ...(models.length > 1 ? { model: kept.model } : {}),
  };
  const text = bodyText(body, seed);
  return kept.raw
    ? { path: "complete", body: text({ prompt: kept.prompt }) }
    : { path: "chat", body: text({ messages: messages() }) };
}

function messages() {
  const system = kept.system ? [{ role: "system", content: kept.system }] : [];
  return [...system, { role: "user", content: kept.prompt }];
}

// A seed has 64 bits, more than a number of JavaScript: it goes into the text as it is.
function bodyText(body, seed) {
  return (input) => {
    const json = JSON.stringify({ ...body, ...input });
    return /^[0-9]+$/.test(seed) ? `${json.slice(0, -1)},"seed":${BigInt(seed)}}` : json;
  };
}

function number(value) {
  return value === "" || value === null || !Number.isFinite(Number(value)) ? null : Number(value);
}

function whole(value) {
  const parsed = number(value);
  return parsed === null ? null : Math.round(parsed);
}
