"""Which jobs a worker takes by their models, and how its answers name it."""

import pytest
from redis import Redis

from tests.producer.conftest import answer, wait_until
from vqa.answer import Answer
from vqa.errors import ModelNotFound, NotReady
from vqa.jobs.job import Job
from vqa.ledger.ledger import Ledger
from vqa.ledger.models import ModelRegistry
from vqa.ledger.records import Lease
from workers.jobs.leases import Leases
from workers.jobs.served import Served
from workers.settings import WorkerSettings


def job(model: str | None) -> Job:
    return Job(id="a", messages=[{"role": "user", "content": "?"}], model=model)


def lease(redis: Redis, model: str | None) -> Lease:
    ledger = Ledger(redis)
    ledger.accept("a", "bulk", b"{}", 60, model=model)
    lease = ledger.take("a", "worker", "token", 9)
    assert isinstance(lease, Lease)
    return lease


@pytest.mark.parametrize(
    ("given", "loaded", "names"),
    [("", "Qwen/VL", ("Qwen/VL",)), ("a, b,a", "Qwen/VL", ("a", "b")), ("", "no name", ()), ("a", "no name", ("a",))],
    ids=["own", "given", "unusable", "given for an unusable one"],
)
def test_a_worker_serves_the_names_that_it_was_given_or_else_its_own(
    given: str, loaded: str, names: tuple[str, ...]
) -> None:
    served = Served.from_settings(WorkerSettings(served_name=given), loaded)
    assert (served.names, served.declared) == (names, bool(given))
    assert [served.takes(name) for name in (*names, "another", None)] == [*(True for _ in names), False, True]


@pytest.mark.parametrize(
    ("asked", "declared", "said"),
    [("b", True, "b"), (None, True, "a"), (None, False, "played")],
    ids=["by its name", "by none", "names were not given"],
)
def test_an_answer_has_the_name_that_was_asked_for(redis: Redis, asked: str | None, declared: bool, said: str) -> None:
    served = Served(("a", "b"), declared)
    outcome = served.after(job(asked), lease(redis, asked), answer("a", "red"))
    assert isinstance(outcome, Answer)
    assert outcome.model == said


def test_a_job_that_lost_its_model_on_the_way_is_not_answered_by_another(redis: Redis) -> None:
    # as when a tool of an earlier release retries a dead letter
    queued_for_any = lease(redis, None)
    with pytest.raises(ModelNotFound, match="submit it again"):
        Served(("a",)).before(job("b"), queued_for_any)
    assert Served(("a",)).before(job("a"), queued_for_any) is None
    assert Served(("a",)).before(job(None), queued_for_any) is None


def test_a_canarys_job_is_answered_though_it_names_another_model(redis: Redis) -> None:
    assert Served(("new",)).before(job("old"), lease(redis, "new")) is None


def test_names_that_redis_forbids_are_left_out_unless_they_were_given() -> None:
    assert Served(("own",)).without_queues().names == ()
    with pytest.raises(NotReady, match=r"interactive\.given"):
        Served(("given",), declared=True).without_queues()


def test_a_worker_that_drains_serves_its_models_no_more(redis: Redis) -> None:
    leases = Leases(redis, "worker", 0.3, {"slots": 1}, served=Served(("a",)))
    registry = ModelRegistry(redis, keep_s=60, lease_s=0.3)
    leases.start(on_lost=print)
    try:
        wait_until(lambda: registry.read().is_up("a"), "it serves its model")
        leases.drain()
        wait_until(lambda: not registry.read().is_up("a"), "it does so no more")
        assert [worker.name for worker in Ledger(redis).workers(5)] == ["worker"]
    finally:
        leases.stop()
