// The npm package openai, unmodified, against a gateway with API keys and an echo worker.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import OpenAI, {
  APIConnectionTimeoutError,
  APIUserAbortError,
  AuthenticationError,
  BadRequestError,
  InternalServerError,
  NotFoundError,
  PermissionDeniedError,
  RateLimitError,
  toFile,
} from "openai";

const { VQA_TEST_URL, VQA_TEST_KEY, VQA_TEST_INTERACTIVE_KEY, VQA_TEST_LIMITED_KEY, VQA_TEST_IMAGE } = process.env;

const client = (apiKey, options) => new OpenAI({ apiKey, baseURL: `${VQA_TEST_URL}/v1`, maxRetries: 0, ...options });
const openai = client(VQA_TEST_KEY);
const image = `data:image/png;base64,${readFileSync(VQA_TEST_IMAGE).toString("base64")}`;

function body(text, fields = {}) {
  const content = [{ type: "image_url", image_url: { url: image, detail: "high" } }, { type: "text", text }];
  return { model: "any", messages: [{ role: "user", content }], ...fields };
}

const slow = (seconds, fields) => body(`slowly ${seconds}`, { metadata: { echo_delay_s: String(seconds) }, ...fields });
const textOf = (completion) => completion.choices[0].message.content;

async function collect(pages) {
  const found = [];
  for await (const each of pages) found.push(each);
  return found;
}

async function until(look, isReady) {
  for (let tries = 0; tries < 600; tries++) {
    const found = await look();
    if (isReady(found)) return found;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.fail("waited in vain");
}

test("a chat with an image is answered", async () => {
  const { data, response, request_id } = await openai.chat.completions.create(body("?")).withResponse();
  assert.match(textOf(data), /^echo:/);
  assert.equal(data.object, "chat.completion");
  assert.equal(data.choices[0].finish_reason, "stop");
  assert.equal(data.usage.total_tokens, data.usage.prompt_tokens + data.usage.completion_tokens);
  assert.equal(data.vqa.images[0].source_width, 210);
  assert.equal(response.headers.get("x-vqa-job-id"), data.id);
  assert.ok(request_id);
});

test("a hundred chats at once each get their answer", async () => {
  const texts = Array.from({ length: 100 }, (_, number) => `question ${number}`);
  const completions = await Promise.all(texts.map((text) => openai.chat.completions.create(body(text))));
  assert.equal(new Set(completions.map(textOf)).size, 100);
});

test("a streamed answer is the same text in pieces", async () => {
  const whole = textOf(await openai.chat.completions.create(body("streamed")));
  const stream = await openai.chat.completions.create(
    body("streamed", { stream: true, stream_options: { include_usage: true } }),
  );
  const chunks = await collect(stream);
  const pieces = chunks.flatMap((chunk) => chunk.choices.map((choice) => choice.delta.content ?? ""));
  assert.equal(pieces.join(""), whole);
  assert.ok(chunks.at(-1).usage.total_tokens > 0);
  const helper = openai.chat.completions.stream(body("streamed"));
  assert.equal(await helper.finalContent(), whole);
});

test("leaving a stream cancels its job", async () => {
  const { data: stream, response } = await openai.chat.completions.create(slow(60, { stream: true })).withResponse();
  for await (const chunk of stream) if (chunk.choices[0]?.delta.content) break;
  const id = response.headers.get("x-vqa-job-id");
  await until(() => openai.get(`/jobs/${id}`), (job) => job.status === "cancelled");
});

test("an aborted or overdue request raises the client's own errors", async () => {
  const abort = new AbortController();
  const waits = openai.chat.completions.create(slow(60), { signal: abort.signal });
  setTimeout(() => abort.abort(), 100);
  await assert.rejects(waits, APIUserAbortError);
  await assert.rejects(openai.chat.completions.create(slow(60), { timeout: 200 }), APIConnectionTimeoutError);
});

test("models are listed", async () => {
  assert.deepEqual((await collect(openai.models.list())).map((model) => model.id), ["echo"]);
  assert.equal((await openai.models.retrieve("echo")).object, "model");
});

test("a batch goes from its file to its output and its errors", async () => {
  const row = (id, fields) => ({ custom_id: id, method: "POST", url: "/v1/chat/completions", body: body(id, fields) });
  const rows = [row("first"), row("bad", { temperature: 9 }), row("last")];
  const content = Buffer.from(rows.map((each) => JSON.stringify(each)).join("\n"));
  const file = await openai.files.create({ file: await toFile(content, "rows.jsonl"), purpose: "batch" });
  assert.equal(file.bytes, content.length);
  const given = { input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h" };
  const made = await openai.batches.create({ ...given, metadata: { project: "node" } });
  const batch = await until(() => openai.batches.retrieve(made.id), (each) => each.status === "completed");
  assert.deepEqual(batch.request_counts, { total: 3, completed: 2, failed: 1 });
  const lines = async (id) => (await (await openai.files.content(id)).text()).trim().split("\n").map(JSON.parse);
  const answered = await lines(batch.output_file_id);
  assert.deepEqual(answered.map((line) => line.custom_id), ["first", "last"]);
  assert.match(textOf(answered[0].response.body), /^echo:/);
  assert.deepEqual((await lines(batch.error_file_id)).map((line) => line.custom_id), ["bad"]);
  assert.ok((await collect(openai.batches.list({ limit: 1 }))).some((each) => each.id === batch.id));
  assert.ok((await collect(openai.files.list({ limit: 1 }))).some((each) => each.id === file.id));
  assert.equal((await openai.files.retrieve(file.id)).filename, "rows.jsonl");
  assert.equal((await openai.files.delete(file.id)).deleted, true);
  await assert.rejects(openai.files.retrieve(file.id), NotFoundError);
});

test("a batch is cancelled", async () => {
  const row = { custom_id: "slow", method: "POST", url: "/v1/chat/completions", body: slow(60) };
  const file = await openai.files.create({ file: await toFile(Buffer.from(JSON.stringify(row)), "a.jsonl"), purpose: "batch" });
  const batch = await openai.batches.create({ input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h" });
  assert.ok(["cancelling", "cancelled"].includes((await openai.batches.cancel(batch.id)).status));
  await until(() => openai.batches.retrieve(batch.id), (each) => each.status === "cancelled");
});

test("errors are the client's classes, with our codes", async () => {
  const raises = (promise, kind, status, code) =>
    assert.rejects(promise, (error) => {
      assert.ok(error instanceof kind, `${error}`);
      assert.deepEqual([error.status, error.code], [status, code]);
      assert.ok(error.requestID);
      return true;
    });
  const { completions } = openai.chat;
  await raises(completions.create(body("?", { temperature: 9 })), BadRequestError, 400, "invalid_job");
  const noImage = { type: "image_url", image_url: { url: "data:image/png;base64,bm8gaW1hZ2U=" } };
  const bad = { model: "any", messages: [{ role: "user", content: [noImage] }] };
  await raises(completions.create(bad), BadRequestError, 400, "bad_image");
  const tooLong = { metadata: { echo_fail: "PromptTooLong" } };
  await raises(completions.create(body("?", tooLong)), BadRequestError, 400, "prompt_too_long");
  await raises(completions.create(slow(60, { vqa: { timeout_s: 1 } })), InternalServerError, 504, "deadline_exceeded");
  await raises(openai.batches.retrieve("batch_none"), NotFoundError, 404, "not_found");
  await raises(client("vqa_wrong").models.list(), AuthenticationError, 401, "invalid_api_key");
  const interactive = client(VQA_TEST_INTERACTIVE_KEY).chat.completions.create(body("?", { vqa: { lane: "bulk" } }));
  await raises(interactive, PermissionDeniedError, 403, "lane_not_allowed");
  const limited = client(VQA_TEST_LIMITED_KEY).chat.completions;
  await limited.create(body("?"));
  await raises(limited.create(body("?")), RateLimitError, 429, "rate_limit_exceeded");
});
