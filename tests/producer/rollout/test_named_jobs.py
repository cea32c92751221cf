"""Jobs that name a model which nobody serves after a rollout."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from producer import Client, Job
from producer.rollout.cards import choose
from producer.rollout.named_jobs import open_jobs, replaced_names
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import WorkerInfo
from vqa.rollout import PROCESS, ProcessInfo, Target
from vqa.settings import QueueSettings

OLD, NEW = Target(model="org/old"), Target(model="org/new")


def worker(name: str, target: Target, *names: str) -> WorkerInfo:
    process = ProcessInfo(started=1.0, target=target)
    return WorkerInfo(name, 1, {"models": list(names), PROCESS: process.model_dump()})


@pytest.mark.parametrize(
    ("listed", "only", "target", "names"),
    [
        ([worker("a", OLD, "org/old"), worker("b", OLD, "org/old")], [], NEW, ["org/old"]),
        ([worker("a", OLD, "org/old"), worker("b", OLD, "org/old")], ["a"], NEW, []),
        ([worker("a", OLD, "org/old"), worker("b", OLD, "org/old")], [], OLD, []),
        # a name that does not follow the model
        ([worker("a", OLD, "vl"), worker("b", OLD, "echo")], [], NEW, []),
        ([WorkerInfo("a", 1, worker("a", OLD).about | {"models": "damaged"})], [], NEW, []),
    ],
    ids=["all", "one", "again", "given", "damaged"],
)
def test_a_models_own_name_goes_with_its_last_worker(
    listed: list[WorkerInfo], only: list[str], target: Target, names: list[str]
) -> None:
    cards, _ = choose(listed, target, only, None)
    assert replaced_names(listed, cards, target) == names


@pytest.mark.parametrize(("declared", "counts"), [(False, {"org/old": 2}), (True, {})], ids=["own", "given"])
def test_open_jobs_that_name_it_are_counted_unless_the_name_was_given(
    redis: Redis, queue_settings: QueueSettings, declared: bool, counts: dict[str, int]
) -> None:
    Ledger(redis).renew("a", [], 9, {}, ["org/old"], declared)
    about: dict[str, Any] = {"messages": [{"role": "user", "content": "?"}]}
    with Client(queue_settings) as client:
        for lane in ("interactive", "bulk"):
            client.submit(Job(model="org/old", lane=lane, **about))
        client.submit(Job(**about))
    assert open_jobs(redis, queue_settings, ["org/old"]) == counts
    assert open_jobs(redis, queue_settings, []) == {}
