"""What metrics cost: a worker's computing time for an echo job, with VQA_METRICS_ADDRESS and without.

Computing time, since other programs of a shared machine change a rate more than metrics do. `python -m
bench.queue.metrics_cost` prints it; one of the two workers runs at a time, alternately.
"""

from __future__ import annotations

import statistics
import time

from bench.queue.echo_jobs import answer, computed_s
from bench.stage import worker
from producer import Client
from producer.demo.redis_server import EmbeddedRedis

JOBS = 3000
REPEATS = 6
#: answered before the clock starts: imports, connections and threads are made
_WARM_UP = 300

METRICS = {"VQA_METRICS_ADDRESS": "127.0.0.1:0"}


def job_times(client: Client, **variables: str) -> tuple[float, float]:
    """Return a new worker's microseconds of computing time for a job, and jobs a second."""
    with worker(client, VQA_ENGINE="echo", VQA_SLOTS="16", **variables) as child:
        answer(client, _WARM_UP)
        before, started = computed_s(child.pid), time.perf_counter()
        answer(client, JOBS)
        seconds = time.perf_counter() - started
        return (computed_s(child.pid) - before) / JOBS * 1e6, JOBS / seconds


def main() -> None:
    """Print both, and the difference."""
    found: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
    with EmbeddedRedis() as server, Client(redis_url=server.url) as client:
        for _ in range(REPEATS):
            found["without"].append(job_times(client))
            found["with"].append(job_times(client, **METRICS))
    least = {name: min(time for time, _ in each) for name, each in found.items()}
    for name, each in found.items():
        rates = [rate for _, rate in each]
        times = [time for time, _ in each]
        print(
            f"{name} metrics: {least[name]:.0f} us a job (median {statistics.median(times):.0f}), "
            f"{max(rates):.0f} jobs/s (median {statistics.median(rates):.0f})"
        )
    print(f"metrics: {least['with'] - least['without']:+.1f} us a job, {least['with'] / least['without'] - 1:+.2%}")


if __name__ == "__main__":
    main()
