// Requests to the gateway. The key is sent in a header and kept by the tab, never in an address.

import { readEvents } from "./events.js";
import { Failure } from "./failure.js";

const STORED_KEY = "vqa-key";

export function setKey(key) {
  sessionStorage.setItem(STORED_KEY, key);
}

// Returns whether there was one.
export function forgetKey() {
  const had = sessionStorage.getItem(STORED_KEY) !== null;
  sessionStorage.removeItem(STORED_KEY);
  return had;
}

// Raises Failure; an abort by `signal` raises the browser's AbortError.
async function request(path, options = {}) {
  const key = sessionStorage.getItem(STORED_KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    // relative, so that the page also works below a path of a proxy
    response = await fetch(path, { ...options, headers, credentials: "same-origin", cache: "no-store" });
  } catch (error) {
    throw error.name === "AbortError" ? error : Failure.unreachable();
  }
  if (!response.ok) throw await Failure.fromResponse(response);
  return response;
}

export async function fetchStatus() {
  return (await request("v1/status")).json();
}

// Stores the image; returns its id.
export async function storeImage(blob, name, signal) {
  const body = new FormData();
  body.append("file", blob, name);
  return (await (await request("v1/images", { method: "POST", body, signal })).json()).id;
}

// Yields the chunks of a streamed answer.
export async function* streamAnswer(model, imageId, question, signal) {
  const content = [{ type: "image_url", image_url: { url: imageId } }, { type: "text", text: question }];
  const body = JSON.stringify({ model, stream: true, messages: [{ role: "user", content }] });
  const headers = { "Content-Type": "application/json" };
  const response = await request("v1/chat/completions", { method: "POST", headers, body, signal });
  yield* readEvents(response.body);
}
