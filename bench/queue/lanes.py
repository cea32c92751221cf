"""Latency of interactive jobs while bulk jobs wait: `python -m bench.queue.lanes`, echo engine, one worker.

Bulk jobs all take the same time and start together, so they end in lock-step. The 95th percentile may be at most the
sum of three times: that of an idle worker; a bulk job's time divided by the number of slots, which is the time between
two free slots if they were not in lock-step; and 50 ms.
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.figures import Row
from bench.stage import worker
from producer import Client, Job
from producer.demo.redis_server import EmbeddedRedis
from vqa.jobs.lane import Lane

_MARGIN_S = 0.05
#: durations of interactive jobs, as fractions of a bulk job's
_FRACTIONS = (1.0, 0.1)


@dataclass(frozen=True)
class Load:
    """The jobs that the worker gets."""

    bulk_jobs: int = 2000
    slots: int = 16
    #: duration of a bulk job
    job_s: float = 2.0
    #: interactive jobs per second, at random times
    rate: float = 2.0
    #: how long interactive jobs arrive
    for_s: float = 30.0
    #: VQA_RESERVED_SLOTS; '' leaves it unset
    reserved: str = ""


@dataclass(frozen=True)
class Latencies:
    """Latencies of interactive jobs, in seconds."""

    seconds: Sequence[float]

    def percentile(self, part: int) -> float:
        """Return the latency that `part` percent of the jobs do not exceed."""
        return statistics.quantiles(self.seconds, n=100, method="inclusive")[part - 1]

    def __str__(self) -> str:
        return f"p50 {self.percentile(50):.3f} s, p95 {self.percentile(95):.3f} s, longest {max(self.seconds):.3f} s"


def rows(load: Load | None = None) -> list[Row]:
    """Start Redis and a worker, and measure."""
    load = load or Load()
    variables = {"VQA_ENGINE": "echo", "VQA_SLOTS": str(load.slots), "VQA_DRAIN_S": "1"}
    if load.reserved:
        variables["VQA_RESERVED_SLOTS"] = load.reserved
    with (
        EmbeddedRedis() as server,
        Client(redis_url=server.url) as client,
        worker(client, **variables),
    ):
        alone = [_interactive(client, load, part * load.job_s) for part in _FRACTIONS]
        client.submit_many(_jobs(load))
        _wait_for_bulk(client)
        beside = [_measured(client, load, part * load.job_s) for part in _FRACTIONS]
    return [
        row
        for part, before, (after, bulk_rate) in zip(_FRACTIONS, alone, beside, strict=True)
        for row in _rows(load, part, before, after, bulk_rate)
    ]


def _rows(load: Load, part: float, alone: Latencies, beside: Latencies, bulk_rate: float) -> Iterator[Row]:
    limit_s = alone.percentile(95) + load.job_s / load.slots + _MARGIN_S
    what = f"interactive jobs of {part * load.job_s:g} s, {load.rate:g}/s, beside {load.bulk_jobs:,} bulk jobs"
    reached = beside.percentile(95) <= limit_s
    yield Row(what, f"{beside} ({len(beside.seconds)} jobs)", f"{alone} alone", f"p95 at most {limit_s:.3f} s", reached)
    # with no slot empty, beside the interactive jobs
    most = (load.slots - load.rate * part * load.job_s) / load.job_s
    busy = bulk_rate / most
    yield Row(
        "bulk meanwhile", f"{bulk_rate:.2f}/s", f"{most:.2f}/s with no slot empty", "at least 0.8 of it", busy >= 0.8
    )


def _job(lane: Lane, seconds: float) -> Job:
    metadata = {"echo_delay_s": str(seconds)}
    return Job(messages=[{"role": "user", "content": "?"}], lane=lane, metadata=metadata)


def _jobs(load: Load) -> Iterator[Job]:
    return (_job("bulk", load.job_s) for _ in range(load.bulk_jobs))


def _wait_for_bulk(client: Client) -> None:
    while not client.counts()["bulk"]["leased"]:
        time.sleep(0.01)


def _open_bulk(client: Client) -> int:
    return sum(client.counts()["bulk"].values())


def _measured(client: Client, load: Load, seconds: float) -> tuple[Latencies, float]:
    before, started = _open_bulk(client), time.monotonic()
    latencies = _interactive(client, load, seconds)
    rate = (before - _open_bulk(client)) / (time.monotonic() - started)
    return latencies, rate


def _interactive(client: Client, load: Load, seconds: float) -> Latencies:
    """Submit jobs at random times, each from a thread that waits for its answer."""
    arrivals = random.Random(0)
    latencies: list[float] = []

    def ask() -> None:
        started = time.monotonic()
        client.answer(client.submit(_job("interactive", seconds)))
        latencies.append(time.monotonic() - started)

    threads = []
    end = time.monotonic() + load.for_s
    while time.monotonic() < end:
        threads.append(threading.Thread(target=ask))
        threads[-1].start()
        time.sleep(arrivals.expovariate(load.rate))
    for thread in threads:
        thread.join()
    return Latencies(latencies)


def main() -> None:
    """Measure and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000, help="bulk jobs that wait")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long interactive jobs arrive, per duration")
    parser.add_argument("--reserved", default="", help="VQA_RESERVED_SLOTS")
    options = parser.parse_args()
    for row in rows(Load(bulk_jobs=options.jobs, for_s=options.seconds, reserved=options.reserved)):
        print(f"{row.what}: {row.figure}; {row.against}; wanted: {row.wanted}: {'reached' if row.reached else 'SHORT'}")


if __name__ == "__main__":
    main()
