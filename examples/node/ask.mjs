// Asks one question about one image through vqa-queue, with plain Redis commands. docs/wire.md describes them.
import { createHash, randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { createClient } from "redis";

const HELP = `usage: node ask.mjs [options] IMAGE QUESTION

  --id ID          the job's id; the same id again is the same job, so a lost connection can be made good (default: new)
  --lane LANE      interactive or bulk (default: interactive)
  --wait SECONDS   how long to wait for the answer (default: 120)
  --json           print the whole answer
  --help           print this text

VQA_REDIS_URL names the Redis (default: redis://127.0.0.1:6379/0).
Exit status: 0 answered, 1 the job failed, 2 wrong usage, 75 no answer yet or no Redis: try again with --id.`;

// an image outlives the wait in the inbox by this; workers extend its life to that of its job
const IMAGE_TTL_S = 86_400;
const REPLY_POLL_S = 1;

class Usage extends Error {}

function readArguments() {
  const string = { type: "string" };
  const options = { id: string, lane: string, wait: string, json: { type: "boolean" }, help: { type: "boolean" } };
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  const wait = Number(values.wait ?? 120);
  if (!values.help && positionals.length !== 2) throw new Usage("give an image and a question");
  if (!(wait > 0)) throw new Usage("--wait: a number of seconds");
  return { ...values, id: values.id ?? randomUUID(), wait, image: positionals[0], question: positionals[1] };
}

async function storeImage(redis, bytes) {
  const reference = "sha256:" + createHash("sha256").update(bytes).digest("hex");
  await redis.set(`vqa:image:${reference}`, bytes, { NX: true, EX: IMAGE_TTL_S });
  // the image of another job may be there already, and about to expire
  await redis.expire(`vqa:image:${reference}`, IMAGE_TTL_S, "GT");
  return reference;
}

async function submit(redis, { id, lane, question }, image, reply) {
  const content = [{ type: "image", image }, { type: "text", text: question }];
  const job = { id, messages: [{ role: "user", content }], ...(lane && { lane }) };
  await redis.xAdd("vqa:inbox", "*", { job: JSON.stringify(job), reply });
}

async function outcome(redis, id, reply, waitS) {
  const until = Date.now() + waitS * 1000;
  for (;;) {
    const found = await redis.get(`celery-task-meta-${id}`);
    if (found !== null) return JSON.parse(found);
    if (Date.now() > until) return null;
    // the id arrives here when the job ends; reading the outcome again after a second is the net
    await redis.blPop(reply, REPLY_POLL_S);
  }
}

async function ask(given) {
  const bytes = await readFile(given.image);
  const url = process.env.VQA_REDIS_URL ?? "redis://127.0.0.1:6379/0";
  const redis = createClient({ url, socket: { reconnectStrategy: false } });
  // a lost connection also rejects the command that waits for its reply
  redis.on("error", () => {});
  await redis.connect();
  try {
    const reply = `vqa:reply:node-${randomUUID()}`;
    await submit(redis, given, await storeImage(redis, bytes), reply);
    return await outcome(redis, given.id, reply, given.wait);
  } finally {
    redis.destroy();
  }
}

async function main() {
  const given = readArguments();
  if (given.help) return console.log(HELP);
  const ended = await ask(given).catch((error) => {
    if (error.syscall === "open" || error.syscall === "read") throw new Usage(error.message);
    console.error(`Redis: ${error.message || error.code} (job ${given.id})`);
    process.exit(75);
  });
  if (ended === null) {
    console.error(`no answer within ${given.wait} s (job ${given.id})`);
    process.exitCode = 75;
  } else if (ended.status === "SUCCESS") {
    console.log(given.json ? JSON.stringify(ended.result) : ended.result.text);
  } else {
    console.error(`${ended.result.exc_type}: ${ended.result.exc_message[0]}`);
    process.exitCode = 1;
  }
}

await main().catch((error) => {
  if (!(error instanceof Usage) && !error.code?.startsWith("ERR_PARSE_ARGS")) throw error;
  console.error(`${error.message} (--help explains the usage)`);
  process.exitCode = 2;
});
