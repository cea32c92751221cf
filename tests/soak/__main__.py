"""`python -m tests.soak --hours 4`: hours of a modest load on a whole system, to see that nothing grows.

Real Redis with its append-only file, two supervisors with an echo worker each, and a gateway. Jobs of all kinds come
through `Client`, the gateway and another Celery app, about 17 a second; one worker is killed now and then. Every
half minute a line of `samples.jsonl` tells memory, descriptors, threads and keys.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import httpx2
from celery import Celery

from producer import Client
from tests.chaos.witness import Witness
from tests.soak import http_kinds, kinds, samples
from tests.soak.load import Load
from tests.soak.samples import Sample
from tests.soak.system import System
from tests.soak.tally import Tally, count_doubled, shorten
from tests.soak.verdict import judge, left_over, trends

_SAMPLE_S = 30.0
_KILL_S = 400.0
#: part of the run that is left out of trends, at least this long
_WARM_UP, _WARM_UP_S = 0.3, 300.0
#: for keys to expire after the load
_EXPIRY_S = 900.0


def main(arguments: list[str]) -> int:
    """Run; return 1 if something grew, was lost or doubled."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=4.0)
    parser.add_argument("--folder", type=Path, help="where logs and samples go")
    options = parser.parse_args(arguments)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="vqa-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"soak: {options.hours:g} hours; samples and logs in {folder}", flush=True)
    try:
        return Soak(folder, options.hours * 3600).run()
    except KeyboardInterrupt:
        print(f"soak: interrupted; samples and logs in {folder}")
        return 130


class Soak:
    """One run."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds
        self._tally = Tally()
        self._samples: list[Sample] = []
        self._kills = 0

    def run(self) -> int:
        with ExitStack() as stack:
            system = stack.enter_context(System(self._folder))
            witness = stack.enter_context(Witness(system.redis))
            before = samples.take(system, 0.0, 0, {}).keys
            self._began = time.monotonic()
            with self._load(system, stack) as load:
                self._watch(system, witness)
                load.stop()
            jobs = self._tally.jobs()
            left = self._await_expiry(system, before)
            count_doubled(witness.outcomes, self._tally)
        return self._report(jobs, left)

    def _load(self, system: System, stack: ExitStack) -> Load:
        client = stack.enter_context(Client(system.settings))
        other = stack.enter_context(Celery("other", broker=system.server.url, set_as_current=False))
        http = stack.enter_context(
            httpx2.Client(base_url=system.gateway.url, timeout=180, limits=httpx2.Limits(max_connections=200))
        )
        calls = kinds.rates(kinds.Kinds(client, other, self._tally))
        calls |= http_kinds.rates(http_kinds.HttpKinds(http, self._tally))
        return Load(calls, self._tally)

    def _watch(self, system: System, witness: Witness) -> None:
        next_kill = _KILL_S
        with (self._folder / "samples.jsonl").open("w") as file:
            while (at_s := time.monotonic() - self._began) < self._seconds:
                if at_s >= next_kill:
                    self._kills += system.kill_worker()
                    next_kill += _KILL_S
                shorten(witness.outcomes)
                sample = samples.take(system, round(at_s, 1), self._tally.jobs(), dict(self._tally.faults))
                self._samples.append(sample)
                print(json.dumps(sample.to_json()), file=file, flush=True)
                due = self._began + at_s + _SAMPLE_S
                time.sleep(max(0.0, min(due, self._began + self._seconds) - time.monotonic()))

    def _await_expiry(self, system: System, before: dict[str, int]) -> list[str]:
        """Return the keys that are left when those that expire have done so."""
        until = time.monotonic() + _EXPIRY_S
        while (left := left_over(before, samples.take(system, 0.0, 0, {}).keys)) and time.monotonic() < until:
            time.sleep(5)
        return left

    def _report(self, jobs: int, left: list[str]) -> int:
        found = trends(self._samples, max(_WARM_UP_S, _WARM_UP * self._seconds))
        wrong = judge(found, left, self._tally.faults, self._tally.late() / max(1, jobs))
        print("| figure | after the warm-up | at the end | an hour | limit |\n| --- | ---: | ---: | ---: | ---: |")
        for each in found:
            print(f"| {each.name} | {each.first:.1f} | {each.last:.1f} | {each.per_hour:+.2f} | {each.limit:.1f} |")
        summary = {
            "jobs": jobs,
            "hours": round(self._seconds / 3600, 2),
            "kills": self._kills,
            "endings": dict(sorted(self._tally.endings.items())),
            "faults": dict(self._tally.faults),
            "messages": self._tally.messages,
            "left": left,
            "wrong": wrong,
            "trends": [asdict(each) for each in found],
        }
        (self._folder / "verdict.json").write_text(json.dumps(summary, indent=1) + "\n")
        for line in wrong:
            print(f"soak: {line}")
        lost, doubled = self._tally.faults["lost"], self._tally.faults["doubled"] + self._tally.faults["wrong"]
        verdict = f"{len(wrong)} things are wrong" if wrong else "nothing grew"
        hours = self._seconds / 3600
        print(
            f"soak: {jobs} jobs in {hours:.2f} hours, {self._kills} workers killed, lost {lost}, doubled {doubled}, "
            f"late {self._tally.late()}; "
            f"{verdict}",
            flush=True,
        )
        return 1 if wrong else 0


if __name__ == "__main__":
    # as for Ctrl-C, so that every process that was started is ended
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
