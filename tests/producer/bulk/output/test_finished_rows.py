"""Which rows have their line: few bytes each, and every line's fate."""

import hashlib
import tracemalloc

from producer.bulk.output.finished_rows import Done
from producer.client.batches import job_id

BATCH = "batch_" + "0" * 24


def test_200_000_ids_take_a_few_megabytes() -> None:
    ids = (job_id(BATCH, hashlib.sha256(str(number).encode()).hexdigest()) for number in range(200_000))
    tracemalloc.start()
    try:
        done = Done(BATCH)
        for id in ids:
            assert done.add(id)
        done.seal()
        now, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(done) == 200_000
    assert now < 5 * 2**20
    assert most < 30 * 2**20


def test_a_row_is_done_that_was_added_and_no_other() -> None:
    done = Done(BATCH)
    ids = [job_id(BATCH, str(number)) for number in range(100)]
    for id in ids[:50]:
        assert done.add(id)
    done.seal()
    assert [done.meet(id) for id in ids] == [True] * 50 + [False] * 50


def test_jobs_of_other_batches_are_strange() -> None:
    done = Done(BATCH)
    assert not done.add(job_id("batch_" + "1" * 24, "row"))
    assert not done.add(f"{BATCH}:no hex digits")
    assert not done.add("q1")
    done.seal()
    assert not done.meet("q1")
    assert done.fate("q1") == "drop"


def test_a_line_is_kept_once_where_the_input_asks_for_it() -> None:
    asked, changed, new = (job_id(BATCH, row) for row in ("asked", "changed", "new"))
    done = Done(BATCH)
    for id in (asked, asked, changed):
        done.add(id)
    done.seal()
    assert done.doubled
    assert done.meet(asked)
    assert not done.meet(new)
    assert done.stale
    assert [done.fate(id) for id in (asked, asked, changed, new)] == ["keep", "drop", "stale", "new"]
    assert done.fate(changed) == "drop"
