"""One run: producers submit jobs, faults happen, everything stops, and the evidence is gathered."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random

from redis.exceptions import RedisError

from tests.chaos import faults
from tests.chaos.catalog import ONE_OF_EACH, WEIGHTS
from tests.chaos.chaos import Chaos
from tests.chaos.evidence import Evidence, gather
from tests.chaos.faults import Fault
from tests.chaos.leftovers import count_open_jobs
from tests.chaos.plan import Plan

_PROGRESS_EVERY_S = 10.0

_INTENT = re.compile(rb'"event": "intent", "id": "([^"]+)"')


def run(plan: Plan, folder: Path) -> Evidence:
    """Run a plan and return the evidence. Raises AssertionError if the run cannot continue."""
    started = time.monotonic()
    with Chaos(plan, folder) as chaos:
        campaign = Campaign(chaos, started + plan.minutes * 60)
        campaign.inject_faults()
        violations = campaign.wind_down()
        return gather(chaos, violations + chaos.violations, campaign.faults, time.monotonic() - started)


class Campaign:
    """Injects the faults of a run and winds it down."""

    def __init__(self, chaos: Chaos, until: float) -> None:
        self._chaos = chaos
        self._until = until
        self._draws = Random(chaos.plan.seed)
        #: faults that come first; one that took no effect is added again
        self._first = [] if chaos.plan.only else self._draws.sample(ONE_OF_EACH, len(ONE_OF_EACH))
        if faults.kill in self._first:
            self._first.remove(faults.kill)
        self._number = 0
        self._lock = threading.Lock()
        self._active = 0
        self._failure: BaseException | None = None
        self._last = "nothing"
        self._counted = (float("-inf"), 0)
        self.faults: Counter[str] = Counter()

    def _draw(self) -> tuple[Fault, Random]:
        plan = self._chaos.plan
        weights = {fault: weight for fault, weight in WEIGHTS.items() if not plan.only or fault.__name__ in plan.only}
        drawn = self._first.pop() if self._first else self._draws.choices(list(weights), list(weights.values()))[0]
        self._number += 1
        # each fault has its own random numbers, which do not depend on how long other faults took
        return drawn, Random(f"{plan.seed} {self._number}")

    def inject_faults(self) -> None:
        """Inject faults, a few at a time, until there were enough faults and jobs.

        The first is a kill without any other fault, so that every run measures one recovery.
        """
        # a janitor waits this long before it judges leases
        time.sleep(self._chaos.plan.lease_s + 3)
        self.faults["kill"] += faults.kill(self._chaos, Random(self._chaos.plan.seed))
        until = time.monotonic() + self._chaos.plan.bound_s
        while not self._chaos.recoveries and time.monotonic() < until:
            time.sleep(0.1)
        threads = [
            threading.Thread(target=self._inject, name=f"faults {number}", daemon=True)
            for number in range(self._chaos.plan.concurrent_faults)
        ]
        for thread in threads:
            thread.start()
        printed_at = time.monotonic()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.1)
            self._check()
            if time.monotonic() > printed_at + _PROGRESS_EVERY_S:
                printed_at = time.monotonic()
                self._print_progress()

    def _inject(self) -> None:
        try:
            while (drawn := self._next()) is not None:
                fault, draws = drawn
                self._chaos.fleet.wait_some_ready()
                took_effect = fault(self._chaos, draws)
                with self._lock:
                    self._active -= 1
                    self.faults[fault.__name__] += took_effect
                    self._last = fault.__name__
                    if not took_effect and fault in ONE_OF_EACH and not self.faults[fault.__name__]:
                        self._first.append(fault)
                time.sleep(draws.expovariate(1 / 0.7))
        except BaseException as failure:
            self._failure = failure

    def _next(self) -> tuple[Fault, Random] | None:
        plan = self._chaos.plan
        while self._failure is None and time.monotonic() < self._until:
            with self._lock:
                wanted = self.faults.total() + self._active < plan.faults
                if wanted or (self.faults.total() >= plan.faults and self._jobs() < plan.jobs and not plan.short):
                    self._active += 1
                    return self._draw()
                if self.faults.total() >= plan.faults and self._jobs() >= plan.jobs:
                    return None
            time.sleep(0.2)
        return None

    def _jobs(self) -> int:
        """Return the number of jobs submitted until at most a second ago."""
        counted, jobs = self._counted
        if time.monotonic() > counted + 1:
            written = b"".join(path.read_bytes() for path in self._chaos.records if path.exists())
            # a job submitted twice is one job
            jobs = len(set(_INTENT.findall(written)))
            self._counted = time.monotonic(), jobs
        return jobs

    def _check(self) -> None:
        for failure in (self._failure, self._chaos.fleet.failure, self._chaos.producers.check()):
            if isinstance(failure, BaseException):
                raise failure
            assert failure is None, failure

    def wind_down(self) -> list[str]:
        """Let the producers collect the rest, the ledger empty and the workers drain; return what did not happen."""
        left_s = max(30.0, min(180.0, self._until - time.monotonic()))
        violations = self._chaos.producers.stop(left_s)
        until = time.monotonic() + 30
        while (rest := self._open_jobs()) and time.monotonic() < until:
            time.sleep(0.2)
        if rest:
            violations.append(f"{rest} jobs are still in the ledger")
        violations += self._chaos.fleet.drain(self._chaos.plan.drain_s + 10)
        # keys such as the janitor's lock expire within seconds
        time.sleep(6)
        return violations

    def _open_jobs(self) -> int:
        try:
            return count_open_jobs(self._chaos.redis)
        except RedisError:
            return 1

    def _print_progress(self) -> None:
        plan = self._chaos.plan
        seconds = plan.minutes * 60 - (self._until - time.monotonic())
        print(
            f"chaos: {seconds:.0f} s, {self._jobs()} jobs, {self.faults.total()} of {plan.faults} faults, "
            f"last: {self._last}",
            flush=True,
        )
