"""The check that no job ran in two living workers at once: what it finds, and what it excuses."""

import json
from pathlib import Path

import pytest

from tests.chaos.journal import JournalTail, Overlap, overlaps, read
from tests.chaos.life import Disturbance, Life

SLACK_S = 4.0


def write(path: Path, *lines: tuple[float, int, str, str]) -> Path:
    entries = ({"at": at, "pid": pid, "id": id, "attempt": 1, "event": event} for at, pid, id, event in lines)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def life(pid: int, end: float | None = None, status: int | None = None) -> Life:
    return Life(f"w{pid}", pid, Path(f"w{pid}.log"), 0.0, 1.0, end, status)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def found(journal: Path, *lives: Life, disturbances: tuple[Disturbance, ...] = ()) -> list[Overlap]:
    return list(overlaps(read(journal), {each.pid: each for each in lives}, disturbances, SLACK_S))


def test_one_run_after_the_other_is_no_overlap(journal: Path) -> None:
    write(journal, (1, 7, "a", "start"), (2, 7, "a", "end"), (2.1, 8, "a", "start"), (3, 8, "a", "end"))
    assert found(journal, life(7), life(8)) == []


def test_two_at_once_in_living_workers_are_found(journal: Path) -> None:
    write(journal, (1, 7, "a", "start"), (2, 8, "a", "start"), (3, 7, "a", "end"), (4, 8, "a", "end"))
    [overlap] = found(journal, life(7), life(8))
    assert (overlap.first.pid, overlap.second.pid, overlap.excuse) == (7, 8, None)


def test_a_process_that_was_killed_runs_its_job_until_then(journal: Path) -> None:
    write(journal, (1, 7, "a", "start"), (5, 8, "a", "start"), (6, 8, "a", "end"))
    assert found(journal, life(7, end=4, status=-9), life(8)) == []
    [overlap] = found(journal, life(7, end=5.5, status=-9), life(8))
    assert overlap.excuse is None


@pytest.mark.parametrize(("begin", "end", "excused"), [(1.5, 4, True), (0, 0.5, False), (0, 1, True), (5.1, 6, False)])
def test_a_worker_that_was_cut_off_when_the_other_began_could_not_know(
    journal: Path, begin: float, end: float, excused: bool
) -> None:
    write(journal, (0.2, 7, "a", "start"), (5, 8, "a", "start"), (9, 7, "a", "end"), (9, 8, "a", "end"))
    trouble = Disturbance("cut off", 7, begin, end)
    [overlap] = found(journal, life(7), life(8), disturbances=(trouble,))
    assert (overlap.excuse is not None) is excused


def test_trouble_of_another_worker_or_of_redis_excuses_nothing(journal: Path) -> None:
    write(journal, (1, 7, "a", "start"), (2, 8, "a", "start"), (3, 7, "a", "end"), (4, 8, "a", "end"))
    troubles = Disturbance("cut off", 8, 0, 9), Disturbance("without Redis", None, 0, 9)
    [overlap] = found(journal, life(7), life(8), disturbances=troubles)
    assert overlap.excuse is None


def test_a_worker_that_gives_back_and_leaves_may_overlap_its_last_moments(journal: Path) -> None:
    write(journal, (1, 7, "a", "start"), (5, 8, "a", "start"), (6, 8, "a", "end"))
    [overlap] = found(journal, life(7, end=6, status=0), life(8))
    assert overlap.excuse == "its worker was leaving"
    [overlap] = found(journal, life(7, end=9, status=0), life(8))
    assert overlap.excuse is None


def test_the_tail_sees_lines_as_they_are_written(journal: Path) -> None:
    tail = JournalTail(journal)
    assert tail.pids_of("a") == []
    write(journal, (1, 7, "a", "start"))
    assert tail.pids_of("a") == [7]
    with journal.open("a") as file:
        file.write('{"at": 2, "pid": 8, "id": "a", ')
        file.flush()
        assert tail.pids_of("a") == [7]
        file.write('"attempt": 2, "event": "start"}\n')
    assert tail.pids_of("a") == [7, 8]
    assert tail.last_start(8) == 2
