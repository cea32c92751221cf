"""The rival of the bulk benchmark: a plain Celery script, `group(...)` and `.get()`, over the tasks of `bench.bare`.

`python -m bench.bulk_rival URL ROWS` submits that many and waits for all; it prints what it took as one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time

from celery import group

from bench.bare import make_bare_app


def main(url: str, rows: int) -> None:
    """Submit, wait, tell."""
    app = make_bare_app(url)
    answer = app.tasks["bare.answer"]
    started = time.perf_counter()
    result = group(answer.s(f"What is in picture {number}?") for number in range(rows)).apply_async()
    submitted = time.perf_counter()
    answers = result.get(disable_sync_subtasks=False)
    ended = time.perf_counter()
    told = {"answers": len(answers), "submit_s": submitted - started, "total_s": ended - started}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
