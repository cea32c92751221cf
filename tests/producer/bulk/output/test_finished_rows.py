"""Which rows have their line: few bytes each, and every line's disposition."""

import hashlib
import tracemalloc

from producer.bulk.output.finished_rows import FinishedRows
from producer.client.batches import job_id

BATCH = "batch_" + "0" * 24


def test_an_id_takes_some_26_bytes_for_long_and_157_for_a_moment() -> None:
    count = 50_000
    ids = (job_id(BATCH, hashlib.sha256(str(number).encode()).hexdigest()) for number in range(count))
    tracemalloc.start()
    try:
        finished = FinishedRows(BATCH)
        for id in ids:
            assert finished.add(id)
        finished.seal()
        now, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(finished) == count
    # 5 and 30 MiB of 200,000
    assert now < 5 * 2**20 / 4
    assert most < 30 * 2**20 / 4


def test_a_row_is_finished_that_was_added_and_no_other() -> None:
    finished = FinishedRows(BATCH)
    ids = [job_id(BATCH, str(number)) for number in range(100)]
    for id in ids[:50]:
        assert finished.add(id)
    finished.seal()
    assert [finished.mark_seen(id) for id in ids] == [True] * 50 + [False] * 50


def test_jobs_of_other_batches_are_strange() -> None:
    finished = FinishedRows(BATCH)
    assert not finished.add(job_id("batch_" + "1" * 24, "row"))
    assert not finished.add(f"{BATCH}:no hex digits")
    assert not finished.add("q1")
    finished.seal()
    assert not finished.mark_seen("q1")
    assert finished.disposition("q1") == "drop"


def test_a_line_is_kept_once_where_the_input_asks_for_it() -> None:
    asked, changed, new = (job_id(BATCH, row) for row in ("asked", "changed", "new"))
    finished = FinishedRows(BATCH)
    for id in (asked, asked, changed):
        finished.add(id)
    finished.seal()
    assert finished.has_duplicates
    assert finished.mark_seen(asked)
    assert not finished.mark_seen(new)
    assert finished.has_stale
    assert [finished.disposition(id) for id in (asked, asked, changed, new)] == ["keep", "drop", "stale", "new"]
    assert finished.disposition(changed) == "drop"
