"""Interactive jobs beside bulk ones, in real workers with the echo engine."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from producer import Client
from tests.worker_process import StartWorker
from vqa import Job
from vqa.jobs.lane import Lane

WAIT_S = 60.0
SLOTS = 8
#: slots, and threads that prepare the next prompts
THREADS = 10


def job(lane: Lane, seconds: float) -> Job:
    return Job(messages=[{"role": "user", "content": "?"}], lane=lane, metadata={"echo_delay_s": str(seconds)})


def submit(client: Client, lane: Lane, seconds: float, count: int) -> list[str]:
    return client.submit_many([job(lane, seconds) for _ in range(count)])


def journal(path: Path) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def wait_for_slots(path: Path, count: int) -> None:
    """Until so many prompts have entered a slot."""
    until = time.monotonic() + WAIT_S
    while sum(line["event"] == "start" for line in journal(path)) < count:
        assert time.monotonic() < until
        time.sleep(0.01)


def most_at_once(lines: Sequence[dict[str, Any]]) -> int:
    inside = most = 0
    for line in lines:
        inside += 1 if line["event"] == "start" else -1
        most = max(most, inside)
    return most


def ask(client: Client, seconds: float) -> str:
    """Return the id of an interactive job that has been answered."""
    id = client.submit(job("interactive", seconds))
    client.answer(id, timeout_s=WAIT_S)
    return id


def ends(lines: Sequence[dict[str, Any]]) -> int:
    """How many prompts have left their slots."""
    return sum(line["event"] == "end" for line in lines)


def test_an_interactive_job_does_not_wait_for_bulk_jobs_that_end_in_lock_step(
    client: Client, start_worker: StartWorker, tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    start_worker(VQA_SLOTS=str(SLOTS), VQA_ECHO_JOURNAL=str(path))
    # the reserve holds from here on
    ask(client, 0.01)
    submit(client, "bulk", 2, 4 * THREADS)
    for turn in range(3):
        wait_for_slots(path, 1 + turn + (SLOTS - 1) * (turn + 1))
        before = ends(journal(path))
        id = ask(client, 0.1)
        lines = journal(path)
        [start] = [number for number, line in enumerate(lines) if (line["id"], line["event"]) == (id, "start")]
        # it got a slot that no bulk job had to leave
        assert ends(lines[:start]) == before


def test_bulk_uses_every_slot_where_no_interactive_jobs_come(
    client: Client, start_worker: StartWorker, tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    start_worker(VQA_SLOTS=str(SLOTS), VQA_ECHO_JOURNAL=str(path))
    ids = submit(client, "bulk", 0.5, 4 * SLOTS)
    assert len(dict(client.answers(ids, timeout_s=WAIT_S))) == len(ids)
    assert most_at_once(journal(path)) == SLOTS


def test_a_slot_that_was_asked_for_is_kept_though_no_interactive_jobs_come(
    client: Client, start_worker: StartWorker, tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    start_worker(VQA_SLOTS=str(SLOTS), VQA_RESERVED_SLOTS="3", VQA_ECHO_JOURNAL=str(path))
    ids = submit(client, "bulk", 0.5, 4 * SLOTS)
    assert len(dict(client.answers(ids, timeout_s=WAIT_S))) == len(ids)
    assert most_at_once(journal(path)) == SLOTS - 3


def test_bulk_gets_one_slot_in_twenty_under_a_flood_of_interactive_jobs(
    client: Client, start_worker: StartWorker, tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    flood = submit(client, "interactive", 0.02, 400)
    bulk = submit(client, "bulk", 0.02, 100)
    start_worker(VQA_SLOTS="4", VQA_ECHO_JOURNAL=str(path))
    ids = [*flood, *bulk]
    assert len(dict(client.answers(ids, timeout_s=WAIT_S))) == len(ids)
    begun = [line["id"] for line in journal(path) if line["event"] == "start"]
    last = begun.index(next(id for id in reversed(begun) if id in set(flood)))
    beside = sum(id in set(bulk) for id in begun[:last])
    # those that were begun before the flood was over
    assert beside + 2 >= 400 / 20
    assert beside <= 400 / 15


def test_slots_that_cannot_be_reserved_are_refused(start_worker: StartWorker) -> None:
    worker = start_worker(ready=False, VQA_SLOTS="4", VQA_RESERVED_SLOTS="4")
    assert worker.process.wait(WAIT_S) != 0
    assert "VQA_RESERVED_SLOTS=4: of 4 slots at most 3 can be reserved" in worker.log.read_text()
