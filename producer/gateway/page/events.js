// Server-sent events as OpenAI's API sends them: one JSON object an event, `[DONE]` at the end.

import { Failure } from "./failure.js";

// Yields the objects. Raises Failure if the server reports an error, or if the connection ends before `[DONE]`.
export async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { value, done } = await read(reader);
      if (done) throw Failure.broken();
      // a line end may be cut in two by the network
      const events = (buffer + value).split(/\r?\n\r?\n/);
      buffer = events.pop();
      for (const event of events) {
        const data = dataOf(event);
        if (data === "[DONE]") return;
        if (data === "") continue;
        const object = JSON.parse(data);
        if (object.error) throw Failure.fromError(object.error);
        yield object;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    throw error.name === "AbortError" ? error : Failure.broken();
  }
}

function dataOf(event) {
  // lines that begin with a colon are comments, which keep the connection open
  const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(5).trimStart()).join("\n");
}
