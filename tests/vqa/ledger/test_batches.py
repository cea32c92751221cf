"""What is known of a batch, counted as its jobs come and go; against a real Redis."""

import pytest
from redis import Redis

from vqa.ledger.batch_state import BatchState
from vqa.ledger.batches import BATCHES, Batches, batch_key
from vqa.ledger.commands import entry_key
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import Ending
from vqa.results import Tally

WEEK_S = 7 * 86_400


@pytest.fixture
def ledger(redis: Redis) -> Ledger:
    return Ledger(redis)


@pytest.fixture
def batches(redis: Redis) -> Batches:
    batches = Batches(redis)
    assert batches.create("b", "bulk", "a tenant", "questions.jsonl", keep_s=100)
    return batches


def state(batches: Batches, id: str = "b") -> BatchState:
    found = batches.get(id)
    assert found is not None
    return found


def accept(ledger: Ledger, *ids: str, batch: str = "b", timeout_s: float = 60) -> list[str]:
    return [ledger.accept(id, "bulk", b"{}", timeout_s, batch=batch, may_wait=True) for id in ids]


def end(ledger: Ledger, id: str, tally: Tally, reason: str = "") -> None:
    assert ledger.close(Ending(id, "", id.encode(), 60, reason, "x" if reason else "", tally=tally))


def test_a_batch_goes_from_its_first_row_to_its_last(batches: Batches, ledger: Ledger) -> None:
    assert state(batches).status == "validating"
    assert accept(ledger, "1", "2", "3") == ["accepted"] * 3
    assert (state(batches).status, state(batches).open) == ("in_progress", 3)
    end(ledger, "1", Tally("", "card0@here", 10, 5, 4, 2))
    end(ledger, "2", Tally("bad_image"))
    for bad in ({"bad_image": 1}, {"bad_image": 2, "invalid_job": 1}, {"bad_image": 2, "invalid_job": 1}):
        # all there are so far, and once more where the reply was lost
        assert batches.count("b", bad, total=6)
    assert not state(batches).is_over
    end(ledger, "3", Tally("", "card0@here", 20, 7, 16, 3))
    assert state(batches).status == "in_progress"
    assert batches.seal("b", 6)
    over = state(batches)
    assert (over.status, over.is_over, over.total, over.done, over.left) == ("completed", True, 6, 6, 0)
    assert (over.completed, over.failed, over.codes) == (2, 4, {"bad_image": 3, "invalid_job": 1})
    assert (over.workers, over.prompt_tokens, over.completion_tokens) == ({"card0@here": 2}, 30, 12)
    assert (over.cached_tokens, over.reasoning_tokens) == (20, 5)
    assert (over.tenant, over.lane, over.input, over.keep_ms, over.sealed) == (
        "a tenant",
        "bulk",
        "questions.jsonl",
        100_000,
        True,
    )
    assert list(over.times) == ["validating", "in_progress", "completed"]
    assert over.times["completed"] >= over.created > 1_600_000_000_000


def test_a_sealed_batch_ends_with_its_last_job(batches: Batches, ledger: Ledger) -> None:
    accept(ledger, "1")
    batches.seal("b", 1)
    assert (state(batches).status, state(batches).left) == ("in_progress", 1)
    end(ledger, "1", Tally("cancelled"))
    assert state(batches).status == "completed"


def test_a_job_counts_once_however_often_it_is_accepted_or_closed(batches: Batches, ledger: Ledger) -> None:
    assert accept(ledger, "1", "1") == ["accepted", "open"]
    for _ in range(2):
        end(ledger, "1", Tally("bad_image"))
    assert accept(ledger, "1") == ["closed"]
    assert (state(batches).failed, state(batches).open) == (1, 0)


def test_a_cancelled_batch_lets_no_more_in_and_is_over_with_its_last_job(batches: Batches, ledger: Ledger) -> None:
    accept(ledger, *map(str, range(70)))
    assert batches.cancel("b") == "cancelling"
    assert accept(ledger, "late") == ["over"]
    assert ledger.headers(["late"]).get("late") is None
    # its message is there: it would be lost
    assert ledger.accept("foreign", "bulk", b"{}", 60, batch="b") == "accepted"
    ids = set(batches.open_ids("b"))
    assert len(ids) == 70
    for id in ids:
        end(ledger, id, Tally("cancelled"))
    over = state(batches)
    assert (over.status, over.codes) == ("cancelled", {"cancelled": 70})
    assert accept(ledger, "later") == ["over"]
    assert batches.cancel("b") == "cancelled"


def test_a_batch_of_which_nothing_is_open_is_cancelled_at_once(batches: Batches) -> None:
    assert batches.cancel("b") == "cancelled"
    assert batches.cancel("nobody's") is None


def test_jobs_that_are_open_at_the_end_of_their_batch_expire_with_it(batches: Batches, ledger: Ledger) -> None:
    batches.create("short", "bulk", expires_s=0.5, keep_s=100)
    batches.create("long", "bulk", expires_s=1000, keep_s=100)
    for batch in ("short", "long"):
        accept(ledger, batch, batch=batch, timeout_s=0)
        batches.seal(batch, 1)
        end(ledger, batch, Tally("deadline_exceeded"))
    assert (state(batches, "short").status, state(batches, "short").codes) == ("expired", {"batch_expired": 1})
    assert (state(batches, "long").status, state(batches, "long").codes) == ("completed", {"deadline_exceeded": 1})


def test_everything_of_a_batch_is_gone_some_time_after_its_end_and_not_before(
    batches: Batches, ledger: Ledger, redis: Redis
) -> None:
    accept(ledger, "1", timeout_s=WEEK_S)
    batches.add_rows("b", 0, [("1", "first")])
    keys = ("vqa:batch:b", "vqa:batch:b:open", "vqa:batch:b:rows")
    assert all(redis.ttl(key) > WEEK_S for key in keys)
    end(ledger, "1", Tally("", "w"))
    batches.seal("b", 1)
    assert all(redis.ttl(key) <= 100 for key in keys)


def test_one_that_is_never_sealed_does_not_stay_for_ever(batches: Batches, redis: Redis) -> None:
    assert 0 < redis.ttl("vqa:batch:b") <= redis.ttl("vqa:batches") <= 3 * 86_400


def test_what_was_cancelled_is_not_finalizing(batches: Batches, ledger: Ledger) -> None:
    assert not batches.set_status("b", "finalizing")
    accept(ledger, "1")
    assert batches.set_status("b", "finalizing")
    assert state(batches).status == "finalizing"
    accept(ledger, "2")
    assert state(batches).status == "in_progress"
    batches.cancel("b")
    assert not batches.set_status("b", "finalizing")
    assert state(batches).status == "cancelling"


def test_a_worker_whose_name_looks_like_a_moment_is_a_worker(batches: Batches, ledger: Ledger) -> None:
    accept(ledger, "1")
    end(ledger, "1", Tally("", "card0@looked_at", 1, 1))
    assert state(batches).workers == {"card0@looked_at": 1}
    assert list(state(batches).times) == ["validating", "in_progress"]


def test_rows_are_kept_in_order(batches: Batches) -> None:
    rows = [(f"b:{number}", f"row {number}, with words") for number in range(2500)]
    assert batches.add_rows("b", 0, rows[:2100])
    for _ in range(2):
        # once more where the reply was lost
        assert batches.add_rows("b", 2100, rows[2100:])
    assert batches.rows("b", 0, 2500) == rows
    assert batches.rows("b", 2400, 200) == rows[2400:]
    assert not batches.add_rows("nobody's", 0, rows)


def test_the_same_batch_again_goes_on(batches: Batches, ledger: Ledger) -> None:
    accept(ledger, "1")
    end(ledger, "1", Tally("", "w", 1, 1))
    batches.seal("b", 1)
    assert not batches.create("b", "bulk", keep_s=100)
    assert (state(batches).status, state(batches).completed, state(batches).sealed) == ("completed", 1, False)
    accept(ledger, "2")
    assert state(batches).status == "in_progress"
    end(ledger, "2", Tally("", "w", 1, 1))
    batches.seal("b", 2)
    assert (state(batches).status, state(batches).completed) == ("completed", 2)


def test_a_dead_letter_that_is_a_job_again_is_counted_as_it_ends_then(batches: Batches, ledger: Ledger) -> None:
    accept(ledger, "1")
    batches.seal("b", 1)
    end(ledger, "1", Tally("job_given_up"), "worker_lost")
    assert (state(batches).status, state(batches).codes) == ("completed", {"job_given_up": 1})
    assert ledger.reopen("1", 60) == "bulk"
    assert (state(batches).status, state(batches).failed, state(batches).codes) == ("in_progress", 0, {})
    end(ledger, "1", Tally("", "w", 1, 1))
    assert (state(batches).status, state(batches).completed, state(batches).failed) == ("completed", 1, 0)


def test_a_batch_that_is_not_kept_stands_in_no_jobs_way(ledger: Ledger, redis: Redis) -> None:
    assert accept(ledger, "1", batch="nobody's") == ["accepted"]
    end(ledger, "1", Tally("", "w", 1, 1))
    batches = Batches(redis)
    assert redis.keys("vqa:batch*") == []
    assert not batches.seal("b", 1)
    assert not batches.count("b", {"x": 1}, 1)
    assert not batches.set_status("b", "failed")
    assert batches.get("b") is None


def test_the_newest_come_first_and_those_that_are_gone_are_forgotten(redis: Redis) -> None:
    batches = Batches(redis)
    for number in range(12):
        batches.create(str(number), "bulk")
        redis.zadd("vqa:batches", {str(number): number})
    for gone in ("11", "10", "8"):
        redis.delete(f"vqa:batch:{gone}")
    assert [batch.id for batch in batches.newest(4)] == ["9", "7", "6", "5"]
    assert redis.zcard("vqa:batches") == 9
    assert len(batches.newest(100)) == 9


def test_the_index_forgets_batches_that_have_expired_though_nobody_lists_them(redis: Redis) -> None:
    batches = Batches(redis)
    for number in range(400):
        assert batches.create(f"batch_{number}", "bulk", "", "", keep_s=100)
        redis.delete(batch_key(f"batch_{number}"))
    # half of them, and some chance
    assert redis.zcard(BATCHES) < 40


def test_a_batch_of_which_an_entry_was_removed_by_hand_says_so_as_long_as_it_is_kept(
    batches: Batches, ledger: Ledger, redis: Redis
) -> None:
    accept(ledger, "1", "2")
    batches.seal("b", 2)
    redis.delete(entry_key("1"))
    end(ledger, "2", Tally("", "w"))
    assert (state(batches).status, state(batches).left) == ("in_progress", 1)


def test_rows_that_are_added_again_in_other_portions_are_there_once(batches: Batches) -> None:
    rows = [(f"b:{n}", f"row {n}") for n in range(10)]
    batches.add_rows("b", 0, rows[:6])
    for first, last in ((0, 4), (4, 8), (0, 10), (8, 10)):
        batches.add_rows("b", first, rows[first:last])

    assert batches.rows("b", 0, 100) == rows


def test_a_batch_that_was_cancelled_while_its_input_was_checked_does_not_begin(batches: Batches) -> None:
    assert batches.cancel("b") == "cancelled"
    assert not batches.set_status("b", "in_progress")
    assert state(batches).status == "cancelled"
