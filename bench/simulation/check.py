"""The simulation against a real run: the same jobs at the same times, real Redis, Celery and echo workers.

A wait is from the moment that a job was due until its slot, by the engine's journal; all processes of a machine share
that clock. Both get the same arrivals and times, so that what differs is the simulation's error, and not the draw.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.simulation import workloads
from bench.simulation.jobs import Work, batch, percentile, poisson
from bench.simulation.system import System
from bench.simulation.worker import Setup
from bench.stage import worker
from producer import Client, Job
from producer.demo.redis_server import EmbeddedRedis
from vqa.jobs.lane import Lane

PARTS = (50, 95, 99)
#: seconds of the echo jobs, on average
MEAN_S = 0.6
#: of a job from the client to the engine, and of a worker between two pops: from the rate of echo jobs
SETUP = Setup(workers=2, slots=4, hop_s=0.008, pop_s=0.003)
_WARM_UP_S = 2.0


@dataclass(frozen=True)
class Waits:
    """Waits of one lane in one run, predicted and measured, in seconds, job by job."""

    what: str
    #: from the times that jobs were to take, and from those that they took on this machine
    predicted: Sequence[float]
    with_real_times: Sequence[float]
    measured: Sequence[float]


Arrivals = Callable[[], Sequence[Iterable[Work]]]


def steady(utilisation: float, seconds: float, seed: int) -> Arrivals:
    """Return interactive jobs that use that part of all slots."""
    rate = utilisation * SETUP.workers * SETUP.slots / MEAN_S
    return lambda: [poisson(rate, seconds, workloads.echo(random.Random(seed)), random.Random(seed + 1), _WARM_UP_S)]


def beside_bulk(utilisation: float, seconds: float, seed: int) -> Arrivals:
    """Return the same beside bulk jobs that would keep all slots busy by themselves."""
    count = round(SETUP.workers * SETUP.slots / MEAN_S * seconds)
    return lambda: [
        *steady(utilisation, seconds, seed)(),
        batch(_WARM_UP_S / 2, count, workloads.echo(random.Random(seed + 2), "bulk")),
    ]


def compare(what: str, arrivals: Arrivals) -> list[Waits]:
    """Simulate the jobs and run them; return the waits of each lane's jobs that began in the real run."""
    predicted = System(SETUP).run(*arrivals())
    works = list(heapq.merge(*arrivals(), key=lambda work: work.arrives))
    measured = _run(works)
    for number, (_, took_s) in measured.items():
        works[number].service_s = took_s or works[number].service_s
    with_real_times = System(SETUP).run(works)
    lanes: tuple[Lane, ...] = ("interactive", "bulk")
    return [
        Waits(
            f"{what}, {lane}",
            [predicted[each].waited_s for each in numbers],
            [with_real_times[each].waited_s for each in numbers],
            [measured[each][0] for each in numbers],
        )
        for lane in lanes
        if (numbers := [number for number in sorted(measured) if works[number].lane == lane])
    ]


def _run(works: Sequence[Work]) -> Mapping[int, tuple[float, float | None]]:
    """Run the jobs until the interactive ones have ended.

    Returns the waits of all that began, by number, and how long each was in its slot if it has ended.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        journal = Path(folder) / "journal"
        server = stack.enter_context(EmbeddedRedis())
        client = stack.enter_context(Client(redis_url=server.url))
        variables = {"VQA_SLOTS": str(SETUP.slots), "VQA_ECHO_JOURNAL": str(journal), "VQA_DRAIN_S": "1"}
        for number in range(SETUP.workers):
            stack.enter_context(worker(client, name=f"check{number}", VQA_ENGINE="echo", **variables))
        start_s = time.monotonic()
        ids = list(_submitted(client, works, start_s))
        for _ in client.answers([id for id, work in zip(ids, works, strict=True) if work.lane == "interactive"]):
            pass
        began, ended = (_times(journal, event) for event in ("start", "end"))
    due = {id: (number, start_s + work.arrives) for number, (id, work) in enumerate(zip(ids, works, strict=True))}
    return {
        number: (began[id] - at_s, ended[id] - began[id] if id in ended else None)
        for id, (number, at_s) in due.items()
        if id in began
    }


def _submitted(client: Client, works: Sequence[Work], start_s: float) -> Iterator[str]:
    """Submit each job when it is due; yield the ids."""
    for arrives, together in itertools.groupby(works, key=lambda work: work.arrives):
        time.sleep(max(0.0, start_s + arrives - time.monotonic()))
        yield from client.submit_many([_job(work) for work in together])


def _job(work: Work) -> Job:
    message = {"role": "user", "content": "?"}
    # a simulation has no deadline
    return Job(messages=[message], lane=work.lane, timeout_s=3600, metadata={"echo_delay_s": f"{work.service_s:.4f}"})


def _times(journal: Path, event: str) -> dict[str, float]:
    """Return when jobs got their slots, or left them, by id."""
    lines = map(json.loads, journal.read_text().splitlines())
    return {line["id"]: line["at"] for line in lines if line["event"] == event}


def summary(runs: Sequence[Waits]) -> Iterator[str]:
    """Yield a line for each percentile of runs of one kind and lane: medians of the runs, and the error of each."""
    for part in PARTS:
        first, second, real = (
            [percentile(waits, part) for waits in column]
            for column in zip(*((each.predicted, each.with_real_times, each.measured) for each in runs), strict=True)
        )
        errors = ", ".join(f"{1000 * (ours - its):+.0f}" for ours, its in zip(second, real, strict=True))
        yield (
            f"{runs[0].what}: P{part} predicted {statistics.median(first):.3f}, with the real times in slots "
            f"{statistics.median(second):.3f}, measured {statistics.median(real):.3f} s; error of each run {errors} ms"
        )


def check(seconds: float, repeats: int, utilisations: Sequence[float] = (0.5, 0.8, 0.95)) -> Iterator[str]:
    """Run everything `repeats` times, each with other arrivals, and yield what differed."""
    kinds: list[tuple[str, Callable[[int], Arrivals]]] = [
        (f"{part:.0%} of the slots", partial(steady, part, seconds)) for part in utilisations
    ]
    kinds.append(("50% of the slots beside bulk", partial(beside_bulk, 0.5, seconds)))
    for what, arrivals in kinds:
        runs = [compare(what, arrivals(10 * seed)) for seed in range(1, repeats + 1)]
        for lane in zip(*runs, strict=True):
            yield from summary(lane)


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(prog="python -m bench.simulation.check", description=__doc__)
    parser.add_argument("--seconds", type=float, default=100.0, help="for which jobs arrive, of each run")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for line in check(options.seconds, options.repeats):
        print(line, flush=True)


if __name__ == "__main__":
    main()
