"""What is known after a run, gathered before the verdict."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

from redis import Redis

from tests.chaos import journal, record
from tests.chaos.chaos import Chaos
from tests.chaos.journal import Overlap, Run
from tests.chaos.leftovers import leftovers
from tests.chaos.life import Disturbance, Life
from tests.chaos.plan import Plan
from tests.chaos.record import Ending, History
from tests.chaos.recovery import Recovery
from vqa.celery import make_app
from vqa.ledger.commands import outcome_key
from vqa.ledger.records import Header
from vqa.results import decode
from vqa.settings import QueueSettings


@dataclass(frozen=True)
class Evidence:
    plan: Plan
    histories: dict[str, History]
    #: read from Redis at the end, by id
    endings: dict[str, Ending]
    #: number of different outcomes published, by id
    published: dict[str, int]
    runs: dict[str, list[Run]]
    overlaps: list[Overlap]
    lives: list[Life]
    disturbances: list[Disturbance]
    recoveries: list[Recovery]
    dead: dict[str, Header]
    #: ids of messages that kombu holds for redelivery
    unacked: set[str]
    leftovers: list[str]
    #: found during the run
    violations: list[str]
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    #: monotonic time is Redis's time in seconds minus this
    clock_s: float = 0.0


def gather(chaos: Chaos, violations: list[str], faults: Counter[str], seconds: float) -> Evidence:
    """Gather the evidence after the workers have ended, while Redis still runs."""
    histories = record.read(path for path in chaos.records if path.exists())
    runs = journal.read(chaos.journal)
    lives, disturbances = chaos.fleet.lives, chaos.fleet.disturbances
    by_pid = {life.pid: life for life in lives}
    # until the first renewal after a fault: a third of the lease, or a timeout, a pause and a new connection
    slack_s = chaos.plan.lease_s + 1.0
    return Evidence(
        plan=chaos.plan,
        histories=histories,
        endings=_endings(chaos.redis, chaos.settings, list(histories)),
        published={id: len(outcomes) for id, outcomes in chaos.witness.outcomes.items()},
        runs=runs,
        overlaps=list(journal.overlaps(runs, by_pid, disturbances, slack_s)),
        lives=lives,
        disturbances=disturbances,
        recoveries=chaos.recoveries,
        dead=_dead(chaos.redis),
        unacked=_unacked(chaos.redis) & histories.keys(),
        leftovers=list(leftovers(chaos.redis)),
        violations=violations,
        faults=faults,
        seconds=seconds,
        clock_s=time.time() - time.monotonic(),
    )


def _endings(redis: Redis, settings: QueueSettings, ids: list[str]) -> dict[str, Ending]:
    app = make_app(settings)
    endings: dict[str, Ending] = {}
    for start in range(0, len(ids), 1000):
        some = ids[start : start + 1000]
        outcomes = cast(list[bytes | None], redis.mget([outcome_key(id) for id in some]))
        endings |= {
            id: Ending.from_outcome(decode(app.backend, outcome))
            for id, outcome in zip(some, outcomes, strict=True)
            if outcome
        }
    app.close()
    return endings


def _dead(redis: Redis) -> dict[str, Header]:
    return dict(_dead_letters(redis))


def _dead_letters(redis: Redis) -> Iterator[tuple[str, Header]]:
    for key in redis.scan_iter("vqa:dead:*", count=1000):
        entry = cast(bytes | None, redis.get(key))
        if entry:
            yield key.decode().removeprefix("vqa:dead:"), Header.parse(entry.partition(b"\n")[0])


def _unacked(redis: Redis) -> set[str]:
    """Return the ids of the messages that kombu redelivers after an hour."""
    held = cast(dict[bytes, bytes], redis.hgetall("unacked")).values()
    return {str(json.loads(message)[0]["headers"].get("id")) for message in held}
