// Talks to the coordinator: JSON questions, and answers that come as a stream of events.
// The key is kept by the tab alone and travels in the header that all clients use.

const KEY = "treedraft.api-key";

export const getKey = () => sessionStorage.getItem(KEY) || "";

export function setKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

export class ApiError extends Error {
  constructor(status, body) {
    super(body?.message || `The server answered with status ${status}.`);
    this.status = status;
    this.reason = body?.reason || "";
  }
}

function headers(extra = {}) {
  const key = getKey();
  return key ? { ...extra, authorization: `Bearer ${key}` } : extra;
}

async function checked(response) {
  if (response.ok) return response;
  let body = null;
  try {
    body = (await response.json()).error;
  } catch {
    // Not one of ours: a proxy perhaps.
  }
  throw new ApiError(response.status, body);
}

export async function ask(path, signal) {
  const response = await fetch(`api/${path}`, { headers: headers(), signal });
  return (await checked(response)).json();
}

// Yields the events of an answer; leaving the loop, or the signal, stops it at the server.
export async function* answer(path, body, signal) {
  const response = await fetch(`api/${path}`, {
    method: "POST",
    headers: headers({ "content-type": "application/json", traceparent: traceparent() }),
    body,
    signal,
  });
  const reader = (await checked(response)).body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += decoder.decode(value, { stream: true });
      const lines = text.split("\n\n");
      text = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: {")) continue;
        const event = JSON.parse(line.slice(6));
        if (event.type === "error") throw new ApiError(200, event);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Requests of the console are traced, whatever share of the others is.
function traceparent() {
  const hex = (bytes) =>
    [...crypto.getRandomValues(new Uint8Array(bytes))].map((b) => b.toString(16).padStart(2, "0")).join("");
  return `00-${hex(16)}-${hex(8)}-01`;
}
