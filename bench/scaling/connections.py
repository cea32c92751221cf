"""How many connections to Redis a worker, a gateway's process and a client have, after they had much to do."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx2
import psutil

from bench.gateway.stage import Stage, chat_body, stage
from bench.scaling.figures import Found, Spread
from producer import Job

_REQUESTS = 64
_SLOTS = (16, 256)


def measure(slots: Sequence[int] = _SLOTS) -> Found:
    """Return connections of each process, idle and after a burst that fills all slots."""
    found: dict[str, list[float]] = {}
    for count in slots:
        with stage(VQA_ENGINE="echo", VQA_SLOTS=str(count), VQA_ECHO_DELAY_S="0.2") as there:
            _note(found, there, "idle", count)
            _burst(there, count)
            _note(found, there, "after a burst", count)
    return {what: Spread(runs) for what, runs in found.items()}


def _note(found: dict[str, list[float]], there: Stage, when: str, slots: int) -> None:
    port = urlsplit(there.redis_url).port
    here = psutil.Process()
    for name, processes in (
        (f"worker of {slots} slots", [there.worker]),
        ("gateway process", there.gateways()),
        ("client", [here]),
    ):
        open_ = [each for process in processes for each in process.net_connections("tcp") if each.raddr]
        found.setdefault(f"connections: {name}, {when}", []).append(sum(each.raddr.port == port for each in open_))


def _burst(there: Stage, slots: int) -> None:
    jobs = [Job(messages=[{"role": "user", "content": "?"}], lane="bulk") for _ in range(4 * slots)]
    ids = there.client.submit_many(jobs)
    with ThreadPoolExecutor(_REQUESTS) as threads, httpx2.Client(timeout=60) as http:
        url, headers = f"{there.url}/v1/chat/completions", {"Content-Type": "application/json"}
        replies = list(threads.map(lambda _: http.post(url, content=chat_body(), headers=headers), range(_REQUESTS)))
    for reply in replies:
        reply.raise_for_status()
    for _ in there.client.answers(ids):
        pass
