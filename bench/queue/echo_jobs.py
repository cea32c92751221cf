"""Jobs that cost the engine nothing, and the computing time that a process spends on them."""

from __future__ import annotations

import psutil

from producer import Client, Job


def answer(client: Client, count: int) -> None:
    """Submit so many bulk jobs, and read their answers."""
    message = {"role": "user", "content": "What colour is the circle?"}
    ids = client.submit_many([Job(messages=[message], lane="bulk") for _ in range(count)])
    assert sum(1 for _ in client.answers(ids)) == count


def computed_s(pid: int) -> float:
    """Return the computing time of a process and its threads so far, in seconds."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
