"""One run from start to end: producers ask, faults happen, everything stops, the evidence is gathered."""

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
from tests.chaos.leftovers import ledger_rest
from tests.chaos.plan import Plan

_PROGRESS_EVERY_S = 10.0

_INTENT = re.compile(rb'"event": "intent", "id": "([^"]+)"')


def run(plan: Plan, folder: Path) -> Evidence:
    """Everything but the verdict. Raises AssertionError where it cannot go on."""
    started = time.monotonic()
    with Chaos(plan, folder) as chaos:
        campaign = Campaign(chaos, started + plan.minutes * 60)
        campaign.inflict()
        complaints = campaign.wind_down()
        return gather(chaos, complaints + chaos.complaints, campaign.faults, time.monotonic() - started)


class Campaign:
    """What happens between a start and an end."""

    def __init__(self, chaos: Chaos, until: float) -> None:
        self._chaos = chaos
        self._until = until
        self._draws = Random(chaos.plan.seed)
        #: one of each comes next, and again where it took no effect
        self._first = [] if chaos.plan.only else self._draws.sample(ONE_OF_EACH, len(ONE_OF_EACH))
        if faults.kill in self._first:
            self._first.remove(faults.kill)
        self._number = 0
        self._lock = threading.Lock()
        self._under_way = 0
        self._failure: BaseException | None = None
        self._last = "nothing"
        self._counted = (float("-inf"), 0)
        self.faults: Counter[str] = Counter()

    def _draw(self) -> tuple[Fault, Random]:
        plan = self._chaos.plan
        weights = {fault: weight for fault, weight in WEIGHTS.items() if not plan.only or fault.__name__ in plan.only}
        drawn = self._first.pop() if self._first else self._draws.choices(list(weights), list(weights.values()))[0]
        self._number += 1
        # each fault draws from its own numbers: what it gets does not depend on how long the others took
        return drawn, Random(f"{plan.seed} {self._number}")

    def inflict(self) -> None:
        """Faults, a few abreast, until there were enough of them and of jobs.

        First a kill with nothing else the matter: what its jobs take to be back is measured in any run.
        """
        # as long as a janitor looks on before it judges leases
        time.sleep(self._chaos.plan.lease_s + 3)
        self.faults["kill"] += faults.kill(self._chaos, Random(self._chaos.plan.seed))
        until = time.monotonic() + self._chaos.plan.bound_s
        while not self._chaos.recoveries and time.monotonic() < until:
            time.sleep(0.1)
        threads = [
            threading.Thread(target=self._inflict, name=f"faults {number}", daemon=True)
            for number in range(self._chaos.plan.abreast)
        ]
        for thread in threads:
            thread.start()
        said = time.monotonic()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.1)
            self._check()
            if time.monotonic() > said + _PROGRESS_EVERY_S:
                said = time.monotonic()
                self._say()

    def _inflict(self) -> None:
        try:
            while (drawn := self._next()) is not None:
                fault, draws = drawn
                self._chaos.fleet.wait_some_ready()
                took_effect = fault(self._chaos, draws)
                with self._lock:
                    self._under_way -= 1
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
                wanted = self.faults.total() + self._under_way < plan.faults
                if wanted or (self.faults.total() >= plan.faults and self._jobs() < plan.jobs and not plan.short):
                    self._under_way += 1
                    return self._draw()
                if self.faults.total() >= plan.faults and self._jobs() >= plan.jobs:
                    return None
            time.sleep(0.2)
        return None

    def _jobs(self) -> int:
        """Submitted so far, as of a second ago."""
        counted, jobs = self._counted
        if time.monotonic() > counted + 1:
            written = b"".join(path.read_bytes() for path in self._chaos.records if path.exists())
            # a job that was submitted again is one job
            jobs = len(set(_INTENT.findall(written)))
            self._counted = time.monotonic(), jobs
        return jobs

    def _check(self) -> None:
        for failure in (self._failure, self._chaos.fleet.failure, self._chaos.producers.check()):
            if isinstance(failure, BaseException):
                raise failure
            assert failure is None, failure

    def wind_down(self) -> list[str]:
        """Producers hear how the rest ends, the ledger empties, the workers drain; what of that did not happen."""
        left_s = max(30.0, min(180.0, self._until - time.monotonic()))
        complaints = self._chaos.producers.stop(left_s)
        until = time.monotonic() + 30
        while (rest := self._rest()) and time.monotonic() < until:
            time.sleep(0.2)
        if rest:
            complaints.append(f"{rest} jobs are in the ledger still")
        complaints += self._chaos.fleet.drain(self._chaos.plan.drain_s + 10)
        # the janitor's lock and the like are gone by themselves, in seconds
        time.sleep(6)
        return complaints

    def _rest(self) -> int:
        try:
            return ledger_rest(self._chaos.redis)
        except RedisError:
            return 1

    def _say(self) -> None:
        plan = self._chaos.plan
        seconds = plan.minutes * 60 - (self._until - time.monotonic())
        print(
            f"chaos: {seconds:.0f} s, {self._jobs()} jobs, {self.faults.total()} of {plan.faults} faults, "
            f"last: {self._last}",
            flush=True,
        )
