"""Predictions from a real Redis, whose counts of closed jobs the tests write."""

from collections.abc import Callable

import pytest
from redis import Redis

from producer.prediction import Prediction, predict
from producer.prediction.words import ends, lateness
from vqa.ledger.batches import Batches
from vqa.ledger.ledger import Ledger

LEASE_S = 9.0
#: jobs that the tests have closed in each ten seconds
PER_SLICE = 20


@pytest.fixture
def up(redis: Redis) -> None:
    """A worker."""
    Ledger(redis).renew("card0@host", [], LEASE_S, {"slots": 4})


@pytest.fixture
def closed(redis: Redis) -> Callable[[str], None]:
    """Write that two jobs a second were closed of a queue, for the last five minutes."""

    def write(queue: str) -> None:
        newest = redis.time()[0] // 10
        for age in range(31):
            redis.set(f"vqa:closed:{queue}:{newest - age}", PER_SLICE)

    return write


def submit(redis: Redis, id: str, rows: int, tenant: str = "", within_s: float | None = None) -> None:
    """Accept a batch's rows, and say that there are no more."""
    batches, ledger = Batches(redis), Ledger(redis)
    batches.create(id, "bulk", tenant, expires_s=within_s)
    for row in range(rows):
        ledger.accept(f"{id}:{row}", "bulk", b"{}", within_s or 3600, tenant=tenant, batch=id, may_wait=True)
    batches.seal(id, rows)


def prediction(redis: Redis, id: str) -> Prediction:
    state = Batches(redis).get(id)
    assert state is not None
    return predict(redis, [state], LEASE_S)[id]


def seconds(found: Prediction) -> float:
    assert found.end is not None
    return (found.end - found.made) / 1000


@pytest.mark.usefixtures("up")
def test_a_batch_ends_when_the_jobs_up_to_its_last_have(redis: Redis, closed: Callable[[str], None]) -> None:
    closed("bulk")
    submit(redis, "batch_a", 200)
    found = prediction(redis, "batch_a")
    assert found.ahead == 200
    assert seconds(found) == pytest.approx(100, rel=0.15)
    assert found.rate == pytest.approx(2, rel=0.15)
    assert (found.unknown, found.in_time, found.is_late) == (None, None, False)


@pytest.mark.usefixtures("up")
def test_other_tenants_and_earlier_batches_go_before(redis: Redis, closed: Callable[[str], None]) -> None:
    closed("bulk")
    submit(redis, "batch_a", 100, "lab")
    submit(redis, "batch_b", 300, "shop")
    submit(redis, "batch_c", 40, "lab")
    # 64 of the first are queued; then 36 and 40 of lab wait, and as many of shop have their turns
    assert [prediction(redis, f"batch_{name}").ahead for name in "abc"] == [64 + 36 + 36, 440, 64 + 76 + 76]


@pytest.mark.usefixtures("up")
def test_a_model_has_a_queue_and_a_rate_of_its_own(redis: Redis, closed: Callable[[str], None]) -> None:
    closed("bulk.tiny")
    batches = Batches(redis)
    batches.create("batch_a", "bulk")
    for row in range(30):
        Ledger(redis).accept(f"batch_a:{row}", "bulk", b"{}", 3600, batch="batch_a", may_wait=True, model="tiny")
    batches.seal("batch_a", 30)
    submit(redis, "batch_b", 30)
    assert seconds(prediction(redis, "batch_a")) == pytest.approx(15, rel=0.15)
    assert prediction(redis, "batch_b").unknown == "no_answers"


def test_why_an_end_is_not_known_is_said(redis: Redis) -> None:
    batches = Batches(redis)
    batches.create("batch_a", "bulk")
    assert prediction(redis, "batch_a").unknown == "rows_unknown"
    batches.expect("batch_a", 10)
    assert prediction(redis, "batch_a").unknown == "no_worker"
    Ledger(redis).renew("card0@host", [], LEASE_S, {"slots": 4})
    found = prediction(redis, "batch_a")
    assert (found.unknown, found.end, found.ahead) == ("no_answers", None, 10)
    assert ends(found) == "end unknown: no job of its queue ended in the last minutes"


@pytest.mark.usefixtures("up")
def test_rows_that_are_still_to_come_count(redis: Redis, closed: Callable[[str], None]) -> None:
    closed("bulk")
    batches = Batches(redis)
    batches.create("batch_a", "bulk")
    batches.expect("batch_a", 1000)
    Ledger(redis).accept("batch_a:0", "bulk", b"{}", 60, tenant="", batch="batch_a", may_wait=True)
    assert prediction(redis, "batch_a").ahead == 1000


@pytest.mark.usefixtures("up")
def test_a_batch_that_will_expire_first_is_late(redis: Redis, closed: Callable[[str], None]) -> None:
    closed("bulk")
    submit(redis, "batch_a", 400, within_s=60)
    found = prediction(redis, "batch_a")
    assert (found.in_time, found.is_late) == (False, True)
    assert "after its limit at" in ends(found)
    assert "start more workers, or allow it" in lateness(found)
    submit(redis, "batch_b", 10, "other", within_s=600)
    assert prediction(redis, "batch_b").in_time


def test_nothing_is_predicted_of_a_batch_that_is_over(redis: Redis) -> None:
    submit(redis, "batch_a", 0)
    state = Batches(redis).get("batch_a")
    assert state is not None
    assert predict(redis, [state], LEASE_S) == predict(redis, [], LEASE_S) == {}


@pytest.mark.usefixtures("up")
def test_damaged_keys_are_passed_over(redis: Redis, closed: Callable[[str], None]) -> None:
    closed("bulk")
    submit(redis, "batch_a", 100)
    for key in ("vqa:flight:bulk", "vqa:delayed:bulk", "vqa:queued:interactive", "vqa:job:batch_a:0"):
        redis.delete(key)
        redis.rpush(key, "x")
    redis.set(f"vqa:closed:bulk:{redis.time()[0] // 10 - 3}", "many")
    assert prediction(redis, "batch_a").end is not None


@pytest.mark.usefixtures("up")
@pytest.mark.parametrize("count", ["-5", "-inf", "nan", "9" * 400])
def test_counts_that_nobody_can_have_counted_end_no_prediction(
    redis: Redis, closed: Callable[[str], None], count: str
) -> None:
    closed("bulk")
    submit(redis, "batch_a", 100)
    for age in range(31):
        redis.set(f"vqa:closed:bulk:{redis.time()[0] // 10 - age}", count)
    redis.hset("vqa:flight:bulk", "other", count)
    found = prediction(redis, "batch_a")
    assert found.end is None or found.made <= found.end


@pytest.mark.usefixtures("up")
def test_thousands_of_tenants_count_without_being_looked_at_each(redis: Redis, closed: Callable[[str], None]) -> None:
    closed("bulk")
    submit(redis, "batch_a", 100, "lab")
    with redis.pipeline() as pipe:
        for number in range(5000):
            pipe.zadd("vqa:turns:bulk", {f"tenant-{number}": 2 + number})
            pipe.zadd(f"vqa:waiting:bulk:tenant-{number}", {f"{number}-a": 1, f"{number}-b": 2})
        pipe.execute()
    redis.config_resetstat()
    assert prediction(redis, "batch_a").ahead == pytest.approx(64 + 36 + 2 * 5000, rel=0.01)
    assert redis.info("commandstats")["cmdstat_zcard"]["calls"] < 1500


@pytest.mark.parametrize(
    ("end_s", "said"),
    [
        pytest.param(40, "ends about 00:00:40 UTC (in 40 s)", id="seconds"),
        pytest.param(1800, "ends about 00:30 UTC (in 30 min)", id="minutes"),
        pytest.param(3 * 3600, "ends about 03:00 UTC (in 3 h)", id="hours"),
        pytest.param(30 * 3600, "ends about 1970-01-02 06:00 UTC (in 30 h)", id="another-day"),
        pytest.param(1e12, "ends about a time after the year 9999 UTC (in 11,574,074 days)", id="never"),
    ],
)
def test_ends_are_said_as_precisely_as_they_are_known(end_s: float, said: str) -> None:
    assert ends(Prediction(0, int(end_s * 1000))) == said


@pytest.mark.parametrize(
    ("earliest", "latest", "said"),
    [
        pytest.param(1500, 2400, "(in 30 min, 00:25 to 00:40)", id="both"),
        pytest.param(1500, None, "(in 30 min, not before 00:25)", id="no-latest"),
        pytest.param(None, 2400, "(in 30 min, by 00:40)", id="no-earliest"),
    ],
)
def test_bounds_are_said_if_they_are_known(earliest: int | None, latest: int | None, said: str) -> None:
    first, last = (None if each is None else each * 1000 for each in (earliest, latest))
    assert said in ends(Prediction(0, 1_800_000, first, last))


@pytest.mark.parametrize("earliest", [3_600_000, None])
def test_that_workers_may_have_been_idle_is_said_where_nothing_bounds_the_rate(earliest: int | None) -> None:
    said = lateness(Prediction(0, 7_200_000, earliest, 10_800_000, expires=1_800_000))
    assert "ends about 02:00 UTC (in 2 h, " in said
    assert "at 00:30 UTC (in 30 min) are given up; start more workers, or allow it 3 h" in said
    assert said.endswith("; if workers were partly idle in these minutes, it ends sooner") == (earliest is None)
