"""Each model's jobs have queues of their own in the ledger, and every way of a job leads back to its own."""

import json
from collections.abc import Callable

import pytest
from celery import Celery
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from vqa.errors import ModelNotFound
from vqa.jobs.job import Job
from vqa.ledger import stopped_canaries
from vqa.ledger.damage import Damage
from vqa.ledger.ledger import Ledger
from vqa.ledger.models import MODELS, Canary, ModelRegistry, Models, Served, model_queues
from vqa.ledger.records import Ending, Lease
from vqa.ledger.sweep import Sweep, SweepResult
from vqa.routing import is_in_share, is_model_name, lane_of, model_of, queue_name
from vqa.settings import Limits, QueueSettings

LEASE_S = 9.0
MODEL = "Qwen/Qwen3-VL-4B:fp8"
QUEUE = f"bulk.{MODEL}"


@pytest.fixture
def ledger(redis: Redis) -> Ledger:
    return Ledger(redis)


@pytest.fixture
def registry(redis: Redis) -> ModelRegistry:
    return ModelRegistry(redis, keep_s=3600, lease_s=LEASE_S)


def accept(ledger: Ledger, id: str, model: str | None = MODEL, **more: object) -> str:
    return ledger.accept(id, "bulk", b'{"payload": 1}', 60, model=model, **more)


def take(ledger: Ledger, id: str) -> Lease:
    lease = ledger.take(id, "worker", f"token-{id}", LEASE_S)
    assert isinstance(lease, Lease)
    return lease


def serve(ledger: Ledger, *models: str, slots: int = 4, worker: str = "worker", declared: bool = True) -> None:
    about = {"slots": slots, "models": list(models)}
    ledger.renew(worker, [], LEASE_S, about, models, declared)


def age(redis: Redis, model: str, seconds: float) -> None:
    """Let a model be served so much earlier."""
    fields = json.loads(redis.hget(MODELS, model) or b"")
    redis.hset(MODELS, model, json.dumps({name: ms - seconds * 1000 for name, ms in fields.items()}))


def test_a_job_waits_runs_and_ends_on_the_queue_of_its_model(redis: Redis, ledger: Ledger) -> None:
    assert accept(ledger, "a") == "accepted"
    assert redis.zrange(f"vqa:queued:{QUEUE}", 0, -1) == [b"a"]
    lease = take(ledger, "a")
    assert (lease.header.model, lease.header.queue) == (MODEL, QUEUE)
    assert redis.zrange(f"vqa:leased:{QUEUE}", 0, -1) == [b"a"]
    assert ledger.counts()["bulk"] == {"waiting": 0, "queued": 0, "leased": 1, "delayed": 0}
    assert ledger.close(Ending("a", lease.token, b"outcome", 60)).queue == QUEUE
    left = {key for key in redis.scan_iter("vqa:*") if MODEL.encode() in key}
    # counts of closed jobs, which expire
    assert all(key.startswith(b"vqa:closed:") for key in left)


def test_a_job_without_a_model_leaves_nothing_of_models_in_redis(redis: Redis, ledger: Ledger) -> None:
    accept(ledger, "a", model=None)
    assert b"model" not in (redis.get("vqa:job:a") or b"")
    assert not redis.exists("vqa:models:open")


def test_lost_delayed_and_unheard_jobs_return_to_their_own_queue(
    redis: Redis, ledger: Ledger, app: Celery, queue_settings: QueueSettings
) -> None:
    for id in ("lost", "delayed", "unheard"):
        accept(ledger, id)
    take(ledger, "lost")
    delayed = take(ledger, "delayed")
    ledger.retry("delayed", delayed.token, 0.001, "EngineError: x")
    redis.zadd(f"vqa:leased:{QUEUE}", {"lost": 1})
    redis.zadd(f"vqa:queued:{QUEUE}", {"unheard": 1})
    sweep = Sweep(redis, app, queue_settings)
    seconds, _ = redis.time()
    result = sweep.run(seconds * 1000)
    assert (result.lost, result.delayed, result.lost_messages) == (1, 1, 1)
    ids = {json.loads(message)["headers"]["id"] for message in redis.lrange(QUEUE, 0, -1)}
    assert ids == {"lost", "delayed", "unheard"}
    assert not redis.exists("bulk", "interactive")


def test_a_dead_letter_is_reopened_on_the_queue_of_its_model(redis: Redis, ledger: Ledger) -> None:
    accept(ledger, "a")
    ledger.close(Ending("a", take(ledger, "a").token, b"outcome", 60, "attempts_used_up", "x"))
    assert ledger.reopen("a", 60) == QUEUE
    assert take(ledger, "a").header.queue == QUEUE


def test_one_models_backlog_makes_no_other_models_job_wait(redis: Redis, ledger: Ledger) -> None:
    for number in range(100):
        accept(ledger, f"a{number}", may_wait=True, tenant="a")
    assert ledger.counts()["bulk"]["waiting"] == 36
    assert accept(ledger, "b", model="other", may_wait=True, tenant="a") == "accepted"
    assert accept(ledger, "c", model=None, may_wait=True, tenant="a") == "accepted"
    # half of the target is taken, so the next take promotes, to the same model's queue
    promoted = [id for number in range(33) for id in take(ledger, f"a{number}").promoted]
    assert len(promoted) == 33
    assert set(promoted) <= {id.decode() for id in redis.zrange(f"vqa:queued:{QUEUE}", 0, -1)}


def test_a_models_queue_is_as_deep_as_its_own_workers_need(redis: Redis, ledger: Ledger) -> None:
    serve(ledger, MODEL, slots=100)
    serve(ledger, "other", slots=50, worker="second")
    redis.delete("vqa:capacity")
    serve(ledger, "other", slots=50, worker="second")
    assert redis.mget("vqa:capacity", f"vqa:capacity.{MODEL}", "vqa:capacity.other") == [b"150", b"100", b"50"]


def test_a_lane_is_full_of_all_models_jobs_together(redis: Redis) -> None:
    ledger = Ledger(redis, Limits(open_jobs=3))
    verdicts = [accept(ledger, f"job{number}", model=f"m{number}") for number in range(4)]
    assert verdicts == ["accepted", "accepted", "accepted", "full"]
    assert ledger.accept("interactive", "interactive", b"{}", 60, model="m0") == "accepted"


def test_damaged_keys_of_a_models_queue_are_set_aside_and_its_jobs_kept(redis: Redis, ledger: Ledger) -> None:
    accept(ledger, "a")
    redis.set(f"vqa:queued:{QUEUE}", "another program's")
    assert Damage(redis).wrong_types() == {f"vqa:queued:{QUEUE}": "zset"}
    Damage(redis).mend()
    assert redis.zrange(f"vqa:queued:{QUEUE}", 0, -1) == [b"a"]


def test_a_model_is_known_until_nobody_has_served_it_for_long(redis: Redis, ledger: Ledger) -> None:
    registry = ModelRegistry(redis, keep_s=3600, lease_s=LEASE_S)
    serve(ledger, "a", "b")
    assert registry.read().names == ["a", "b"]
    age(redis, "a", 600)
    assert "a" in registry.read().names
    assert not registry.read().is_up("a")
    age(redis, "a", 3600)
    assert registry.read().names == ["b"]
    assert registry.forget() == ["a"]


def test_a_name_counts_as_given_for_as_long_as_models_are_kept(redis: Redis, ledger: Ledger) -> None:
    registry = ModelRegistry(redis, keep_s=3600, lease_s=LEASE_S)
    serve(ledger, "a")
    serve(ledger, "a", declared=False)
    # of two workers, one was given it
    assert registry.read().are_declared
    age(redis, "a", 3601)
    serve(ledger, "a", declared=False)
    assert registry.read().names == ["a"]
    assert not registry.read().are_declared


def test_a_worker_knows_its_own_models_before_it_says_that_it_serves_them(redis: Redis) -> None:
    registry = ModelRegistry(redis, 3600, LEASE_S, own=["new"])
    job = Job(messages=({"role": "user", "content": "?"},), model="new")
    assert registry.route([job]) == {job.id: "new"}


def test_the_jobs_of_a_forgotten_model_are_still_swept(redis: Redis, ledger: Ledger, registry: ModelRegistry) -> None:
    serve(ledger, MODEL)
    accept(ledger, "a")
    redis.delete(MODELS)
    registry.forget()
    assert QUEUE in model_queues(redis)
    ledger.close(Ending("a", take(ledger, "a").token, b"outcome", 60))
    registry.forget()
    assert model_queues(redis) == ["interactive", "bulk"]


def test_an_unknown_model_is_refused_with_those_that_are_served(ledger: Ledger, registry: ModelRegistry) -> None:
    serve(ledger, "b", "a")
    job = Job(messages=({"role": "user", "content": "?"},), model="c")
    with pytest.raises(ModelNotFound, match=r"served: a, b$"):
        registry.route([job])


def test_a_model_that_has_just_started_is_known_at_once(ledger: Ledger, registry: ModelRegistry) -> None:
    registry.read()
    serve(ledger, "new")
    job = Job(messages=({"role": "user", "content": "?"},), model="new")
    assert registry.route([job]) == {job.id: "new"}


def test_a_canary_that_is_down_gets_no_jobs(redis: Redis, ledger: Ledger, registry: ModelRegistry) -> None:
    serve(ledger, "old", "new")
    registry.set_canary("old", Canary("new", 100))
    job = Job(messages=({"role": "user", "content": "?"},), model="old")
    assert registry.read().route(job) == "new"
    age(redis, "new", 60)
    assert registry.read().route(job) == "old"


def share(ledger: Ledger, id: str, **more: object) -> str:
    """Accept a job that names `old`, and that a share sends to `new`."""
    return accept(ledger, id, model="new", named="old", **more)


Sweeping = Callable[[], SweepResult]


@pytest.fixture
def sweep(redis: Redis, app: Celery, queue_settings: QueueSettings) -> Sweeping:
    sweep = Sweep(redis, app, queue_settings)
    return lambda: sweep.run(redis.time()[0] * 1000)


def test_a_shares_jobs_return_to_the_model_that_they_name_once_the_canary_has_stopped(
    redis: Redis, ledger: Ledger, sweep: Sweeping
) -> None:
    serve(ledger, "old", "new")
    for name in ("queued", "delayed", "running", "lost"):
        share(ledger, name)
    accept(ledger, "own", model="new", named="new")
    ledger.retry("delayed", take(ledger, "delayed").token, 30, "EngineError: x")
    take(ledger, "running")
    take(ledger, "lost")
    delay = redis.zscore("vqa:delayed:bulk.new", "delayed")
    assert sweep().returned == 0
    age(redis, "new", 60)
    redis.zadd("vqa:leased:bulk.new", {"lost": 1})
    result = sweep()
    assert (result.lost, result.returned) == (1, 3)
    headers = ledger.headers(["queued", "delayed", "running", "lost", "own"])
    assert {id: header.queue for id, header in headers.items()} == {
        **dict.fromkeys(["queued", "delayed", "lost"], "bulk.old"),
        **dict.fromkeys(["running", "own"], "bulk.new"),
    }
    assert {json.loads(each)["headers"]["id"] for each in redis.lrange("bulk.old", 0, -1)} == {"queued", "lost"}
    assert redis.zscore("vqa:delayed:bulk.old", "delayed") == delay
    assert (redis.hgetall("vqa:flight:bulk.old"), redis.hgetall("vqa:flight:bulk.new")) == ({b"": b"3"}, {b"": b"2"})
    assert sweep().returned == 0
    # the canary is back, and the model's own jobs stay its own
    serve(ledger, "new")
    assert take(ledger, "queued").header.model == "old"


def test_waiting_jobs_of_a_stopped_canary_return_in_their_order(redis: Redis, ledger: Ledger, sweep: Sweeping) -> None:
    serve(ledger, "old")
    for number in range(64):
        accept(ledger, f"own{number:02}", model="new", may_wait=True)
    ids = [f"shared{number}" for number in range(3)]
    assert {share(ledger, id, may_wait=True, tenant="a") for id in ids} == {"waiting"}
    assert accept(ledger, "last", model="new", may_wait=True, tenant="a") == "waiting"
    for number, id in enumerate(reversed(ids)):
        redis.zadd("vqa:waiting:bulk.new:a", {id: number})
    result = sweep()
    assert (result.returned, result.promoted) == (3, 3)
    # the oldest message is the last of its list
    assert [json.loads(each)["headers"]["id"] for each in redis.lrange("bulk.old", 0, -1)] == ids
    assert redis.zrange("vqa:waiting:bulk.new:a", 0, -1) == [b"last"]


def test_a_sweep_goes_on_where_the_last_one_stopped_among_jobs_that_stay(
    redis: Redis, ledger: Ledger, sweep: Sweeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopped_canaries, "_PORTION", 2)
    serve(ledger, "old")
    order = ["own0", "own1", "own2", "shared0", "shared1", "own3", "shared2"]
    for number, id in enumerate(order):
        accept(ledger, id, model="new", named="old" if id.startswith("shared") else "new")
        redis.zadd("vqa:queued:bulk.new", {id: redis.time()[0] * 1000 + number})
    # two that stay; one of two moves, then another, then two that are left and no more
    assert [sweep().returned for _ in range(3)] == [0, 3, 0]


def test_a_share_stays_with_its_canary_while_the_model_that_its_jobs_name_is_away_too(
    redis: Redis, ledger: Ledger, sweep: Sweeping
) -> None:
    serve(ledger, "old", "other")
    age(redis, "old", 60)
    share(ledger, "a")
    assert sweep().returned == 0
    assert ledger.headers(["a"])["a"].queue == "bulk.new"
    serve(ledger, "old")
    assert sweep().returned == 1


def test_a_returned_job_overtakes_no_job_that_waits_and_respects_its_tenants_limit(
    redis: Redis, app: Celery, queue_settings: QueueSettings
) -> None:
    settings = queue_settings.model_copy(update={"tenant_most": 2})
    ledger = Ledger(redis, settings.limits)
    serve(ledger, "old")
    for id in ("old0", "old1", "old2"):
        accept(ledger, id, model="old", may_wait=True, tenant="a")
    for id in ("shared0", "shared1"):
        assert share(ledger, id, may_wait=True, tenant="a") == "accepted"
    assert Sweep(redis, app, settings).run(redis.time()[0] * 1000).returned == 2
    assert redis.hgetall("vqa:flight:bulk.old") == {b"a": b"2"}
    assert redis.zrange("vqa:waiting:bulk.old:a", 0, -1) == [b"old2", b"shared0", b"shared1"]


def test_a_dead_letter_of_a_share_returns_once_it_is_reopened(redis: Redis, ledger: Ledger, sweep: Sweeping) -> None:
    serve(ledger, "old")
    share(ledger, "a")
    ledger.close(Ending("a", take(ledger, "a").token, b"outcome", 60, "attempts_used_up", "x"))
    assert ledger.reopen("a", 60) == "bulk.new"
    assert sweep().returned == 1
    assert ledger.headers(["a"])["a"].queue == "bulk.old"


def test_a_damaged_name_of_a_shared_job_is_set_aside(redis: Redis, ledger: Ledger, sweep: Sweeping) -> None:
    serve(ledger, "old")
    share(ledger, "a")
    redis.set("vqa:job:a", (redis.get("vqa:job:a") or b"").replace(b'"share_of":"old"', b'"share_of":"o d"'))
    assert sweep().returned == 0
    assert redis.exists("vqa:dead:a")


@pytest.mark.parametrize(
    "damaged",
    [b"\xff", b"[]", b"{", b'{"seen": true}', b'{"seen": "x"}', b'{"seen": null}', b'{"seen": 1%b}' % (b"0" * 400)],
    ids=range(7),
)
def test_a_damaged_registry_is_read_as_far_as_it_can_be(
    redis: Redis, ledger: Ledger, registry: ModelRegistry, damaged: bytes
) -> None:
    serve(ledger, "a")
    redis.hset(MODELS, mapping={"b": damaged, b"\xff": damaged, "bad name": '{"seen": 1}'})
    huge = b'{"model": "b", "percent": 1%b}' % (b"0" * 400)
    redis.hset("vqa:canary", mapping={"a": damaged, b"\xff": damaged, "b": huge})
    models = registry.read()
    assert (models.names, dict(models.canaries)) == (["a"], {})
    assert model_queues(redis) == ["interactive", "bulk", "interactive.a", "bulk.a", "interactive.b", "bulk.b"]
    registry.forget()


# no deadline: other work on the machine
@settings(deadline=None)
@given(
    first=st.text("abcdef0123456789-", max_size=30),
    percent=st.floats(0, 100),
    more=st.floats(0, 100),
)
def test_a_canarys_share_is_what_was_asked_for_and_grows_without_exchanging_jobs(
    first: str, percent: float, more: float
) -> None:
    ids = [f"{first}{number}" for number in range(500)]
    percent, more = sorted((percent, more))
    share = {id for id in ids if is_in_share("model", id, percent)}
    # five standard deviations of a binomial distribution, and rounding
    tolerance = 5 * (percent / 100 * (1 - percent / 100) / len(ids)) ** 0.5 + 2 / len(ids)
    assert abs(len(share) / len(ids) - percent / 100) <= tolerance
    assert share <= {id for id in ids if is_in_share("model", id, more)}


@settings(deadline=None)
@given(id=st.uuids().map(str), percent=st.floats(0, 100))
def test_a_job_that_is_routed_again_goes_to_the_same_model(id: str, percent: float) -> None:
    served = {name: Served(name, ago_s=0) for name in ("old", "new")}
    models = Models(served, {"old": Canary("new", percent)})
    job = Job(id=id, messages=({"role": "user", "content": "?"},), model="old")
    assert models.route(job) == models.route(job)
    assert models.route(job) == ("new" if is_in_share("old", id, percent) else "old")


@settings(deadline=None)
@given(name=st.text(max_size=140))
def test_only_names_that_are_safe_in_keys_are_models(name: str) -> None:
    if is_model_name(name):
        assert name.isascii()
        assert not set(name) & set(" \n\r\t\0*?[]{}'\"\\")
        assert model_of(queue_name("bulk", name)) == name
        assert lane_of(queue_name("interactive", name)) == "interactive"
