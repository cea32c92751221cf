"""The rival of the bulk benchmark: a plain Celery script, `group(...)` and `.get()`, over the tasks of `bench.bare`.

`python -m bench.bulk_rival URL ROWS` submits that many and waits for all; it prints what it took as one line of JSON.
With many rows `.get()` may never return: some results were announced before it listened, and nothing looks again.
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

from bench.bare import make_bare_app

#: with every result in Redis for so long, whatever the script waits for does not come
_PATIENCE_S = 30.0


def main(url: str, rows: int) -> None:
    """Submit, wait, tell."""
    app = make_bare_app(url)
    answer = app.tasks["bare.answer"]
    received: list[str] = []
    started = time.perf_counter()

    def tell(ended: float) -> None:
        told = {"answers": len(received), "submit_s": submitted - started, "total_s": ended - started}
        print(json.dumps(told), flush=True)

    result = group(answer.s(f"What is in image {number}?") for number in range(rows)).apply_async()
    submitted = time.perf_counter()
    threading.Thread(target=_give_up, args=(url, rows, tell), daemon=True).start()
    result.get(disable_sync_subtasks=False, callback=lambda id, _: received.append(id))
    tell(time.perf_counter())


def _give_up(url: str, rows: int, tell: Callable[[float], None]) -> None:
    """End the process some time after all results were in Redis."""
    connection: Any = Redis.from_url(url)
    while connection.dbsize() < rows:
        time.sleep(0.2)
    there = time.perf_counter()
    time.sleep(_PATIENCE_S)
    tell(there)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
