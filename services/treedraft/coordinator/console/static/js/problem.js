// Says what went wrong, and asks for a key where one is needed.

import { ApiError } from "./api.js";

let hiding = 0;

export function problem(error) {
  if (error instanceof ApiError && (error.status === 401 || error.status === 403)) {
    document.dispatchEvent(new CustomEvent("key-wanted", { detail: error.message }));
    return;
  }
  const toast = document.getElementById("toast");
  toast.textContent = error instanceof ApiError ? error.message : "The coordinator cannot be reached.";
  toast.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => { toast.hidden = true; }, 7000);
}
