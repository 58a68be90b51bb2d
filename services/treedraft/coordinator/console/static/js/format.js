// Numbers and tokens as people read them.

export const SOURCES = [
  { key: "draft", name: "draft model", mark: "●", about: "guessed by the small model, and right" },
  { key: "lookup", name: "lookup", mark: "◆", about: "copied from earlier text, and right" },
  { key: "target", name: "target itself", mark: "○", about: "said by the big model itself" },
];

export const PARTS = [
  { key: "queue", name: "queue", about: "waiting for the pass to begin, for drafts too" },
  { key: "forward", name: "forward", about: "the pass of the target model" },
  { key: "walk", name: "walk", about: "drawing tokens, following the tree" },
  { key: "commit", name: "commit", about: "making the tokens final" },
];

export const BESIDE = [
  { key: "draft", name: "draft", about: "the drafter computing, beside the round" },
  { key: "wire", name: "wire", about: "the way to the drafter and back" },
];

export function fixed(value, digits = 1) {
  return Number.isFinite(value) ? value.toFixed(digits) : "–";
}

export function ms(value) {
  if (!Number.isFinite(value)) return "–";
  if (value >= 10000) return `${(value / 1000).toFixed(1)} s`;
  return value >= 100 ? `${value.toFixed(0)} ms` : `${value.toFixed(value < 1 ? 2 : 1)} ms`;
}

export function percent(value) {
  if (!Number.isFinite(value)) return "–";
  const digits = value > 0 && value < 0.01 ? 2 : 0;
  return `${(value * 100).toFixed(digits)} %`;
}

export function count(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}

export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });
}

// A token alone: its leading blank is left out, other blanks and line ends are seen.
export function tokenLabel(text, limit = 16) {
  if (text === "") return "∅";
  const bare = text.trim() ? text.replace(/^ /, "") : text.replace(/ /g, "␣");
  const seen = bare.replace(/\n/g, "↵").replace(/\t/g, "⇥");
  const signs = [...seen];
  return signs.length > limit ? `${signs.slice(0, limit - 1).join("")}…` : seen;
}
