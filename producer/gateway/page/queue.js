// The state of the queue, read every 2 s while the page is seen.

import { fetchStatus } from "./api.js";

const PERIOD_MS = 2000;

const queue = document.getElementById("queue");
const workers = document.getElementById("workers");

// `onStatus` gets each state, `onFailure` each Failure; after one with status 401 nothing is read before the function
// that this returns is called. It may be called at any time.
export function watchQueue(onStatus, onFailure) {
  let timer = null;
  let looks = 0;
  const look = async () => {
    clearTimeout(timer);
    const current = ++looks;
    let again = true;
    try {
      const status = await fetchStatus();
      show(status);
      onStatus(status);
    } catch (failure) {
      queue.textContent = "The state of the queue cannot be read";
      workers.replaceChildren();
      onFailure(failure);
      again = failure.status !== 401;
    }
    // a later look has a timer of its own
    if (again && current === looks && !document.hidden) timer = setTimeout(look, PERIOD_MS);
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : look()));
  look();
  return look;
}

function show(status) {
  const lanes = Object.entries(status.lanes).map(([lane, counts]) => {
    const waiting = counts.waiting + counts.queued + counts.delayed;
    return `${lane}: ${number(waiting)} waiting, ${number(counts.leased)} running`;
  });
  queue.textContent = lanes.join(" · ");
  const lines = status.workers.length ? status.workers.map(line) : [item("No worker is up")];
  if (lines.length > 1) lines.unshift(item(`${lines.length} workers · ${answers(total(status.workers))}`));
  workers.replaceChildren(...lines);
}

function total(listed) {
  return listed.reduce((sum, worker) => sum + (worker.answered_1m ?? 0), 0);
}

function line(worker) {
  const rate = worker.answered_1m === null ? null : answers(worker.answered_1m);
  return item([worker.name, worker.model, `${worker.slots} slots`, rate].filter(Boolean).join(" · "));
}

function answers(count) {
  return `${number(count)} ${count === 1 ? "answer" : "answers"} in the last minute`;
}

function item(text) {
  const li = document.createElement("li");
  li.textContent = text;
  return li;
}

function number(count) {
  return count.toLocaleString("en");
}
