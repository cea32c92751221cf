"""What a killed gateway and a restarted Redis lose: `python -m tests.chaos gateway`.

Kills the gateway (SIGKILL) while requests wait, jobs of `Prefer: respond-async` are open and batches are under way, and
starts another. Then kills and restarts Redis under streams.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from producer import Client
from producer.demo.redis_server import free_port
from tests.chaos import journal
from tests.chaos.guard import Guard
from tests.producer.gateway.gateway_process import GatewayProcess
from tests.redis_server import RedisServer
from tests.worker_process import WorkerProcess
from vqa.ledger.ledger import Ledger
from vqa.redis.connection import connect
from vqa.settings import QueueSettings

#: requests that wait for their answers, streams, and jobs that are asked for later: 500 in all
WAITING, STREAMS, ASYNC = 300, 100, 100
BATCHES, ROWS = 3, 300
#: streams under which Redis is restarted
STREAMS_OVER_REDIS = 60
#: how long the echo engine takes for a job, and limit for everything to end
_DELAY_S, _REST_S = 2.0, 180.0


@dataclass
class Result:
    """What was lost; all zero is as promised."""

    lost: Counter[str] = field(default_factory=Counter)
    #: jobs that ran more than once although only the gateway was killed
    again: int = 0
    seconds: float = 0.0


def main() -> int:
    """Measure; return 1 if anything was lost or ran twice."""
    folder = Path(tempfile.mkdtemp(prefix="vqa-gateway-"))
    with ExitStack() as stack:
        guard = stack.enter_context(Guard())
        server = stack.enter_context(RedisServer(folder / "redis", append_only=True))
        journal_path = folder / "journal.jsonl"
        workers = [_worker(server.url, f"w{each}", folder, guard, journal_path, stack) for each in range(2)]
        ledger = Ledger(stack.enter_context(connect(QueueSettings(redis_url=server.url))))
        for worker in workers:
            worker.wait_ready(ledger)
        killed = asyncio.run(_kill_gateway(folder, guard, server, journal_path))
        streams = asyncio.run(_restart_redis(folder, guard, server))
    for what, result in (("gateway killed", killed), ("Redis restarted under streams", streams)):
        lost = ", ".join(f"{name} {count}" for name, count in result.lost.items()) or "nothing"
        print(f"{what}: lost {lost}; ran again {result.again}; {result.seconds:.0f} s", flush=True)
    return 1 if killed.lost or killed.again or streams.lost else 0


def _worker(url: str, name: str, folder: Path, guard: Guard, path: Path, stack: ExitStack) -> WorkerProcess:
    variables = {"VQA_ECHO_JOURNAL": str(path), "VQA_ECHO_DELAY_S": str(_DELAY_S), "VQA_SLOTS": "64"}
    worker = WorkerProcess(url, name, folder / f"{name}.log", **variables)
    guard.watch(worker.process.pid)
    stack.callback(worker.stop)
    return worker


def _gateway(folder: Path, guard: Guard, url: str, port: int) -> GatewayProcess:
    gateway = GatewayProcess(url, folder / "gateway", VQA_GATEWAY_PORT=str(port))
    guard.watch(gateway.process.pid)
    gateway.wait_ready()
    return gateway


def _body(question: str, **fields: Any) -> dict[str, Any]:
    return {"model": "any", "messages": [{"role": "user", "content": question}], **fields}


async def _kill_gateway(folder: Path, guard: Guard, server: RedisServer, journal_path: Path) -> Result:
    port = free_port()
    gateway = _gateway(folder, guard, server.url, port)
    limits = httpx2.Limits(max_connections=1000)
    result, began = Result(), time.monotonic()
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=_REST_S) as http:
        batches = [await _create_batch(http, number) for number in range(BATCHES)]
        ids = [await _submit(http, f"async {number}") for number in range(ASYNC)]
        cut = [asyncio.create_task(_ask(http, number)) for number in range(WAITING)]
        cut += [asyncio.create_task(_stream(http, f"stream {number}")) for number in range(STREAMS)]
        await _until_open(server.url, WAITING + STREAMS)
        gateway.kill()
        await asyncio.gather(*cut, return_exceptions=True)
        gateway = _gateway(folder / "restarted", guard, server.url, port)
        # the same requests again, as a client's retry sends them
        again = await asyncio.gather(*(_ask(http, number) for number in range(WAITING)), return_exceptions=True)
        result.lost["requests"] += sum(isinstance(each, BaseException) for each in again)
        for reply in await asyncio.gather(*(_poll(http, id) for id in ids)):
            result.lost["jobs"] += reply.get("status") != "completed"
        for batch in batches:
            result.lost["rows"] += await _missing_rows(http, batch)
    gateway.stop()
    runs = journal.read(journal_path)
    result.again = sum(len(each) > 1 for each in runs.values())
    result.lost = +result.lost
    result.seconds = time.monotonic() - began
    return result


async def _until_open(url: str, count: int) -> None:
    """Wait until so many of the waiting requests have become jobs that the kill hits them all over their lives."""
    with Client(redis_url=url) as client:
        until = time.monotonic() + _REST_S
        while (seen := sum((await asyncio.to_thread(client.counts))["interactive"].values())) < count // 2:
            if time.monotonic() > until:
                raise RuntimeError(f"only {seen} of {count} requests became jobs")
            await asyncio.sleep(0.01)


async def _ask(http: httpx2.AsyncClient, number: int) -> str:
    headers = {"Idempotency-Key": f"chaos-{number}"}
    reply = await http.post("/v1/chat/completions", json=_body(f"question {number}"), headers=headers)
    reply.raise_for_status()
    return str(reply.json()["choices"][0]["message"]["content"])


async def _submit(http: httpx2.AsyncClient, question: str) -> str:
    reply = await http.post("/v1/chat/completions", json=_body(question), headers={"Prefer": "respond-async"})
    if reply.status_code != 202:
        raise RuntimeError(f"{reply.status_code}: {reply.text[:200]}")
    return reply.headers["Location"].rsplit("/", 1)[1]


async def _poll(http: httpx2.AsyncClient, id: str) -> dict[str, Any]:
    until = time.monotonic() + _REST_S
    while True:
        reply = await http.get(f"/v1/jobs/{id}", params={"wait": 30})
        state: dict[str, Any] = reply.json()
        if state.get("status") not in ("queued", "running", "delayed") or time.monotonic() > until:
            return state


async def _stream(http: httpx2.AsyncClient, question: str) -> str:
    """Return the whole text. Raises RuntimeError if the stream ends without [DONE] or with an error."""
    text = ""
    async with http.stream("POST", "/v1/chat/completions", json=_body(question, stream=True)) as reply:
        reply.raise_for_status()
        async for line in reply.aiter_lines():
            if line == "data: [DONE]":
                return text
            if line.startswith("data: "):
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    raise RuntimeError(chunk["error"]["message"])
                text += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
    raise RuntimeError("the stream was cut")


async def _create_batch(http: httpx2.AsyncClient, number: int) -> str:
    rows = (
        {"custom_id": f"row-{row}", "method": "POST", "url": "/v1/chat/completions", "body": _body(f"{number} {row}")}
        for row in range(ROWS)
    )
    content = "\n".join(map(json.dumps, rows)).encode()
    uploaded = await http.post("/v1/files", files={"file": ("rows.jsonl", content)}, data={"purpose": "batch"})
    uploaded.raise_for_status()
    body = {"input_file_id": uploaded.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    created = await http.post("/v1/batches", json=body)
    created.raise_for_status()
    return str(created.json()["id"])


async def _missing_rows(http: httpx2.AsyncClient, batch: str) -> int:
    """Return how many rows are not in the batch's output exactly once."""
    until = time.monotonic() + _REST_S
    while True:
        state = (await http.get(f"/v1/batches/{batch}")).json()
        if state["status"] in ("completed", "failed", "expired", "cancelled") or time.monotonic() > until:
            break
        await asyncio.sleep(0.2)
    if state["status"] != "completed":
        return ROWS
    output = await http.get(f"/v1/files/{state['output_file_id']}/content")
    found = Counter(json.loads(line)["custom_id"] for line in output.text.splitlines())
    return sum(found[f"row-{row}"] != 1 for row in range(ROWS)) + (len(found) > ROWS)


async def _restart_redis(folder: Path, guard: Guard, server: RedisServer) -> Result:
    port = free_port()
    gateway = _gateway(folder / "second", guard, server.url, port)
    result, began = Result(), time.monotonic()
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=_REST_S) as http:
        streams = [asyncio.create_task(_stream(http, f"over {number}")) for number in range(STREAMS_OVER_REDIS)]
        await _until_open(server.url, STREAMS_OVER_REDIS)
        server.kill()
        server.start()
        texts = await asyncio.gather(*streams, return_exceptions=True)
        whole = await asyncio.gather(*(_whole(http, f"over {number}") for number in range(STREAMS_OVER_REDIS)))
    gateway.stop()
    for text, expected in zip(texts, whole, strict=True):
        if text != expected:
            result.lost[f"streams ({type(text).__name__})"] += 1
    result.seconds = time.monotonic() - began
    return result


async def _whole(http: httpx2.AsyncClient, question: str) -> str:
    reply = await http.post("/v1/chat/completions", json=_body(question))
    reply.raise_for_status()
    return str(reply.json()["choices"][0]["message"]["content"])
