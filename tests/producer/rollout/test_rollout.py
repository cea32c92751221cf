"""A run of a rollout looks at the cards that it leaves out, too."""

from __future__ import annotations

import pytest
from celery import Celery
from redis import Redis

from producer.rollout.cards import Card
from producer.rollout.rollout import Rollout
from vqa.errors import NotReady
from vqa.ledger.ledger import Ledger
from vqa.rollout import PROCESS, ProcessInfo, Target

OLD, NEW = Target(model="org/old"), Target(model="org/new")
LEASE_S = 60.0


def list_worker(redis: Redis, name: str, process: ProcessInfo) -> None:
    Ledger(redis).renew(name, [], LEASE_S, {PROCESS: process.model_dump()})


def test_a_left_out_card_that_goes_back_ends_the_rollout_and_is_named(redis: Redis, app: Celery) -> None:
    before = ProcessInfo(started=1, target=OLD)
    list_worker(redis, "card0@host", ProcessInfo(started=1, target=NEW, rollout="a" * 32))
    list_worker(redis, "card1@host", before)
    rollout = Rollout(redis, app, LEASE_S, NEW, watch_s=30)

    def shown(cards: object) -> None:
        # the first one was on trial since an earlier run, which had been stopped
        list_worker(redis, "card0@host", ProcessInfo(started=2, target=OLD, rollout="a" * 32, failed="was killed"))

    with (
        rollout.alone(),
        pytest.raises(NotReady, match=r"^card0@host had org/new, and now runs org/old: was killed$"),
    ):
        rollout.run([Card("card1@host", before)], ["card0@host"], 1, False, shown)
