"""The rival of the bulk benchmark: a plain Celery script with `group(...)` and `.get()` over `bench.queue.bare`'s task.

`python -m bench.queue.bulk_rival URL ROWS` submits ROWS tasks, waits for all and prints the timings as one line of
JSON. With many rows `.get()` may never return: it misses results announced before it subscribed, and nothing looks
again.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from celery import group
from redis import Redis

from bench.queue.bare import make_bare_app

#: once every result has been in Redis for this long, the ones still missing will not arrive
_WAIT_S = 30.0


def main(url: str, rows: int) -> None:
    """Submit, wait and print the timings."""
    app = make_bare_app(url)
    answer = app.tasks["bare.answer"]
    received: list[str] = []
    started = time.perf_counter()

    def report(ended: float) -> None:
        timings = {"answers": len(received), "submit_s": submitted - started, "total_s": ended - started}
        print(json.dumps(timings), flush=True)

    result = group(answer.s(f"What is in image {number}?") for number in range(rows)).apply_async()
    submitted = time.perf_counter()
    threading.Thread(target=_give_up, args=(url, rows, report), daemon=True).start()
    result.get(disable_sync_subtasks=False, callback=lambda id, _: received.append(id))
    report(time.perf_counter())


def _give_up(url: str, rows: int, report: Callable[[float], None]) -> None:
    """End the process some time after the last result was written to Redis."""
    connection: Any = Redis.from_url(url)
    while connection.dbsize() < rows:
        time.sleep(0.2)
    complete = time.perf_counter()
    time.sleep(_WAIT_S)
    report(complete)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
