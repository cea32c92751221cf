"""How long interactive jobs take while bulk jobs wait: `python -m bench.lanes`, echo engine, one worker.

Bulk jobs all take the same time and begin together, so that they end in lock-step. What is wanted of the 95th
percentile: that of an idle worker, and one bulk job's time over the slots (the time between two slots that come free,
were they not in lock-step), and 50 ms.
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
from vqa.job import Lane

_MARGIN_S = 0.05
#: jobs of these times, in seconds: as long as a bulk job, and a tenth of it
_SHORTER = (1.0, 0.1)


@dataclass(frozen=True)
class Load:
    """What is asked of the worker."""

    bulk_jobs: int = 2000
    slots: int = 16
    #: what a bulk job takes
    job_s: float = 2.0
    #: interactive jobs a second, at random moments
    rate: float = 2.0
    #: for so long
    for_s: float = 30.0
    #: what the worker is told of reserved slots; '' is nothing
    reserved: str = ""


@dataclass(frozen=True)
class Latencies:
    """Of interactive jobs, in seconds."""

    seconds: Sequence[float]

    def percentile(self, part: int) -> float:
        """Within which `part` of a hundred were answered."""
        return statistics.quantiles(self.seconds, n=100, method="inclusive")[part - 1]

    def __str__(self) -> str:
        return f"p50 {self.percentile(50):.3f} s, p95 {self.percentile(95):.3f} s, longest {max(self.seconds):.3f} s"


def rows(load: Load | None = None) -> list[Row]:
    """Measure, with a Redis and a worker of its own."""
    load = load or Load()
    variables = {"VQA_ENGINE": "echo", "VQA_SLOTS": str(load.slots), "VQA_DRAIN_S": "1"}
    if load.reserved:
        variables["VQA_RESERVED_SLOTS"] = load.reserved
    with (
        EmbeddedRedis() as server,
        Client(redis_url=server.url) as client,
        worker(client, **variables),
    ):
        alone = [_interactive(client, load, part * load.job_s) for part in _SHORTER]
        client.submit_many(_jobs(load))
        _wait_for_bulk(client)
        beside = [_measured(client, load, part * load.job_s) for part in _SHORTER]
    return [
        row
        for part, before, (after, bulk_rate) in zip(_SHORTER, alone, beside, strict=True)
        for row in _rows(load, part, before, after, bulk_rate)
    ]


def _rows(load: Load, part: float, alone: Latencies, beside: Latencies, bulk_rate: float) -> Iterator[Row]:
    limit_s = alone.percentile(95) + load.job_s / load.slots + _MARGIN_S
    what = f"interactive jobs of {part * load.job_s:g} s, {load.rate:g}/s, beside {load.bulk_jobs:,} bulk jobs"
    reached = beside.percentile(95) <= limit_s
    yield Row(what, f"{beside} ({len(beside.seconds)} jobs)", f"{alone} alone", f"p95 at most {limit_s:.3f} s", reached)
    # what interactive jobs leave
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
    before, begun = _open_bulk(client), time.monotonic()
    latencies = _interactive(client, load, seconds)
    rate = (before - _open_bulk(client)) / (time.monotonic() - begun)
    return latencies, rate


def _interactive(client: Client, load: Load, seconds: float) -> Latencies:
    """Jobs that come at random; each is waited for by a thread of its own."""
    moments = random.Random(0)
    latencies: list[float] = []

    def ask() -> None:
        begun = time.monotonic()
        client.answer(client.submit(_job("interactive", seconds)))
        latencies.append(time.monotonic() - begun)

    asking = []
    end = time.monotonic() + load.for_s
    while time.monotonic() < end:
        asking.append(threading.Thread(target=ask))
        asking[-1].start()
        time.sleep(moments.expovariate(load.rate))
    for thread in asking:
        thread.join()
    return Latencies(latencies)


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000, help="bulk jobs that wait")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long interactive jobs come, each time")
    parser.add_argument("--reserved", default="", help="VQA_RESERVED_SLOTS")
    options = parser.parse_args()
    for row in rows(Load(bulk_jobs=options.jobs, for_s=options.seconds, reserved=options.reserved)):
        print(f"{row.what}: {row.figure}; {row.against}; wanted: {row.wanted}: {'reached' if row.reached else 'SHORT'}")


if __name__ == "__main__":
    main()
