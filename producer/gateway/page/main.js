// The page: an image, a question, an answer as it is generated; and again about the same image.

import { answer } from "./answering.js";
import { forgetKey, setKey } from "./api.js";
import { Entry, showError, showImage } from "./conversation.js";
import { Failure } from "./failure.js";
import { prepare } from "./image.js";
import { watchInputs } from "./inputs.js";
import { watchQueue } from "./queue.js";

const byId = (id) => document.getElementById(id);
const question = byId("question");

// defaults of the gateway, until it has told its own
let limits = { image_bytes: 20 * 2 ** 20, image_pixels: 50_000_000 };
let model = "default";
// {blob, url, caption, name, id}; the id is there once the gateway has stored it
let image = null;
// of the answer in progress
let stopping = null;
// what to do again once a key is given
let afterKey = null;

async function choose(file) {
  showError(null);
  try {
    const prepared = await prepare(file, limits);
    if (image?.url) URL.revokeObjectURL(image.url);
    image = { ...prepared, name: file.name, id: null };
    showImage(image);
    question.focus();
  } catch (failure) {
    showError(failure);
  }
}

async function ask(text) {
  showError(null);
  setBusy(new AbortController());
  const entry = new Entry(text);
  try {
    await answer(entry, image, text, model, stopping.signal);
  } catch (error) {
    failed(entry, error, text);
  } finally {
    setBusy(null);
  }
}

function failed(entry, error, text) {
  if (error.name === "AbortError") {
    entry.end("Stopped", "");
    return;
  }
  const failure = error instanceof Failure ? error : new Failure("The gateway's answer cannot be read. Ask again.");
  // the text is not part of the new answer
  if (failure.code === "stream_restarted") entry.clear();
  entry.end("Not answered", "");
  // so that it need not be typed again
  if (question.value === "") question.value = text;
  if (failure.status === 401) {
    entry.article.remove();
    askForKey(failure, submit);
  } else {
    showError(failure);
  }
}

function setBusy(controller) {
  const hadFocus = document.activeElement === byId("stop");
  stopping = controller;
  byId("ask").disabled = controller !== null;
  byId("stop").hidden = controller === null;
  // a hidden button would leave the keyboard nowhere
  if (hadFocus) question.focus();
}

function submit() {
  const text = question.value.trim();
  if (stopping !== null) return;
  if (image === null) {
    showError(new Failure("Choose an image first."));
    byId("file").focus();
  } else if (text === "") {
    showError(new Failure("Type a question first."));
    question.focus();
  } else {
    question.value = "";
    ask(text);
  }
}

function askForKey(failure, then) {
  // without a key before, the form says it all
  if (forgetKey()) showError(failure);
  afterKey = then ?? afterKey;
  if (!byId("key-form").hidden) return;
  byId("key-form").hidden = false;
  byId("key").focus();
}

function useKey(event) {
  event.preventDefault();
  setKey(byId("key").value.trim());
  byId("key").value = "";
  byId("key-form").hidden = true;
  showError(null);
  question.focus();
  lookAtQueue();
  afterKey?.();
  afterKey = null;
}

function onStatus(status) {
  limits = status.limits;
  model = status.workers[0]?.model ?? model;
}

byId("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
byId("key-form").addEventListener("submit", useKey);
byId("stop").addEventListener("click", () => stopping?.abort());
question.addEventListener("keydown", (event) => {
  // Enter also ends the composition of a Chinese or Japanese word
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});
watchInputs(choose, showError);

const lookAtQueue = watchQueue(onStatus, (failure) => {
  if (failure.status === 401) askForKey(failure);
});
