// Finds the page for the address, and does what all pages share: theme, key, model.

import { ask, getKey, setKey } from "./api.js";
import { clusterPage } from "./cluster.js";
import { offerModels } from "./controls.js";
import { put } from "./dom.js";
import { problem } from "./problem.js";
import { racePage } from "./race.js";
import { tracesPage } from "./traces.js";
import { watchPage } from "./watch.js";

const PAGES = { watch: watchPage, race: racePage, cluster: clusterPage, traces: tracesPage };
const THEMES = ["auto", "light", "dark"];
const dark = matchMedia("(prefers-color-scheme: dark)");
let page = null;

function route() {
  const [name, argument] = location.hash.replace(/^#\/?/, "").split("/");
  const make = PAGES[name] || watchPage;
  page?.leave();
  page = make(argument);
  put(document.getElementById("page"), page.element);
  for (const link of document.querySelectorAll(".bar nav a")) {
    const isHere = link.getAttribute("href") === `#/${PAGES[name] ? name : "watch"}`;
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  page.redraw();
}

function applyTheme() {
  const chosen = localStorage.getItem("treedraft.theme") || "auto";
  const isDark = chosen === "dark" || (chosen === "auto" && dark.matches);
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  document.getElementById("theme-button").textContent = `Theme: ${chosen}`;
  page?.redraw();
}

function nextTheme() {
  const chosen = localStorage.getItem("treedraft.theme") || "auto";
  localStorage.setItem("treedraft.theme", THEMES[(THEMES.indexOf(chosen) + 1) % THEMES.length]);
  applyTheme();
}

function keyDialog() {
  const dialog = document.getElementById("key-dialog");
  const input = document.getElementById("key-input");
  document.getElementById("key-button").addEventListener("click", () => open());
  document.addEventListener("key-wanted", (event) => open(event.detail));
  document.getElementById("key-cancel").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    if (dialog.returnValue !== "save") return;
    setKey(input.value.trim());
    showKey();
    showModel();
    route();
  });
  const why = document.getElementById("key-why");
  const usual = why.textContent;

  function open(reason = "") {
    if (dialog.open) return;
    why.textContent = reason ? `${reason}. ${usual}` : usual;
    input.value = getKey();
    dialog.returnValue = "";
    dialog.showModal();
    input.focus();
  }
}

function showKey() {
  document.getElementById("key-button").textContent = getKey() ? "API key ✓" : "API key";
}

async function showModel() {
  const chip = document.getElementById("model-chip");
  try {
    const { models } = await ask(`overview?since=${Number.MAX_SAFE_INTEGER}`);
    offerModels(models.map((model) => model.model));
    put(chip, models.length ? models.map((model) => model.model).join(", ") : "no model yet");
    chip.hidden = false;
  } catch (error) {
    problem(error);
  }
}

document.getElementById("theme-button").addEventListener("click", nextTheme);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("page").focus();
});
dark.addEventListener("change", applyTheme);
addEventListener("hashchange", route);
addEventListener("resize", () => page?.redraw());
keyDialog();
showKey();
applyTheme();
route();
showModel();
