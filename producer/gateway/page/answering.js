// One question about one image, which is sent to the gateway once.

import { storeImage, streamAnswer } from "./api.js";
import { Failure } from "./failure.js";

// `image` is {blob, name, id}; its id is there once the gateway has stored it. Raises Failure, and AbortError by `signal`.
export async function answer(entry, image, question, model, signal) {
  const stored = image.id !== null;
  try {
    await upload(entry, image, signal);
    await stream(entry, image, question, model, signal);
  } catch (error) {
    // the gateway keeps images for a limited time
    if (!stored || !isGone(error)) throw error;
    image.id = null;
    await upload(entry, image, signal);
    await stream(entry, image, question, model, signal);
  }
}

const ENDINGS = {
  length: "Cut off: the answer reached its longest length",
  content_filter: "Held back by the word filter",
};

function isGone(error) {
  return error instanceof Failure && (error.status === 404 || error.code === "image_missing");
}

async function upload(entry, image, signal) {
  if (image.id !== null) return;
  entry.note("Sending the image");
  image.id = await storeImage(image.blob, image.name, signal);
}

async function stream(entry, image, question, model, signal) {
  entry.note("Waiting for an answer");
  let answeredBy = "";
  let reason = null;
  for await (const chunk of streamAnswer(model, image.id, question, signal)) {
    if (chunk.vqa?.restarted) entry.note("A worker was lost; another one answers again.");
    answeredBy = chunk.model || answeredBy;
    const choice = chunk.choices?.[0];
    if (choice?.delta?.content) entry.append(choice.delta.content);
    reason = choice?.finish_reason ?? reason;
  }
  entry.end(ENDINGS[reason] ?? "", answeredBy);
}
