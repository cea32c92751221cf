"""Jobs that end with an error are counted by minute and code; `vqa top` shows the counts."""

import pytest
from redis import Redis

from vqa.errors import BadImage, Cancelled, VQAError
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import Ending, Lease
from vqa.results import Tally, tally


def close(ledger: Ledger, id: str, counted: Tally, by_worker: bool = True) -> None:
    ledger.accept(id, "bulk", b"{}", 60)
    lease = ledger.take(id, "worker", f"token-{id}", 60)
    assert isinstance(lease, Lease)
    assert ledger.close(Ending(id, lease.token if by_worker else "", b"{}", 60, tally=counted))


def counted(redis: Redis) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for key in redis.keys("vqa:failed:*"):
        assert 300_000 < redis.pttl(key) <= 360_000
        for code, count in redis.hgetall(key).items():
            found[code] = found.get(code, 0) + int(count)
    return found


@pytest.mark.parametrize(
    ("error", "by_worker"), [(BadImage("x"), True), (Cancelled("x"), False)], ids=["by its worker", "by another"]
)
def test_an_error_is_counted_by_its_code(redis: Redis, error: VQAError, by_worker: bool) -> None:
    ledger = Ledger(redis)
    for id in ("a", "b"):
        close(ledger, id, tally(error), by_worker)
    assert counted(redis) == {error.code().encode(): 2}


def test_an_answer_is_none_and_no_other_field_passes_for_a_code(redis: Redis) -> None:
    close(Ledger(redis), "a", Tally("", worker='"code": "bad_image"'))
    assert counted(redis) == {}


def test_a_count_that_another_program_has_overwritten_keeps_no_job_open(redis: Redis) -> None:
    now = redis.time()[0] // 60
    for number in range(2):
        redis.set(f"vqa:failed:{now + number}", "x")
    close(Ledger(redis), "a", tally(BadImage("x")))
    assert not redis.exists("vqa:job:a")
