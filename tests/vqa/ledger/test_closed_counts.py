"""Jobs that workers close are counted by queue and ten seconds; predictions of a batch's end go by the counts."""

from redis import Redis

from vqa.ledger.ledger import Ledger
from vqa.ledger.records import Ending, Lease


def close(ledger: Ledger, id: str, by_worker: bool = True) -> bool:
    lease = ledger.take(id, "worker", f"token-{id}", 60)
    assert isinstance(lease, Lease)
    return bool(ledger.close(Ending(id, lease.token if by_worker else "", b"{}", 60)))


def counted(redis: Redis, queue: str) -> int:
    return sum(int(redis.get(key) or 0) for key in redis.keys(f"vqa:closed:{queue}:*"))


def test_jobs_that_workers_close_are_counted_by_lane(redis: Redis) -> None:
    ledger = Ledger(redis)
    for id, lane in (("a", "bulk"), ("b", "bulk"), ("c", "interactive")):
        ledger.accept(id, lane, b"{}", 60)
        assert close(ledger, id)
    assert (counted(redis, "bulk"), counted(redis, "interactive")) == (2, 1)
    assert all(300_000 < redis.pttl(key) <= 330_000 for key in redis.keys("vqa:closed:*"))


def test_a_cancelled_job_is_not_counted(redis: Redis) -> None:
    ledger = Ledger(redis)
    ledger.accept("a", "bulk", b"{}", 60)
    assert close(ledger, "a", by_worker=False)
    assert redis.keys("vqa:closed:*") == []


def test_a_count_that_another_program_has_overwritten_keeps_no_job_open(redis: Redis) -> None:
    ledger = Ledger(redis)
    now = redis.time()[0] // 10
    for number in range(3):
        redis.rpush(f"vqa:closed:bulk:{now + number}", "x")
    ledger.accept("a", "bulk", b"{}", 60)
    assert close(ledger, "a")
    assert not redis.exists("vqa:job:a")
