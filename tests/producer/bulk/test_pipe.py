"""Rows that `vqa submit -` reads from a pipe: each is sent as it comes, whatever the writer does next."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.producer.bulk.conftest import Start, answers, chat, codes, lines
from tests.producer.conftest import wait_until

Begin = Callable[..., AbstractContextManager[subprocess.Popen[str]]]


@pytest.fixture
def begin(start_submit: Start) -> Begin:
    """`vqa submit -`, whose input the test writes."""

    @contextmanager
    def begin(*arguments: str) -> Iterator[subprocess.Popen[str]]:
        with start_submit("-", *arguments, stdin=subprocess.PIPE) as process:
            try:
                yield process
            finally:
                process.kill()

    return begin


def write(process: subprocess.Popen[str], *rows: Any) -> None:
    assert process.stdin
    process.stdin.writelines(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    process.stdin.flush()


def questions(numbers: range) -> list[dict[str, Any]]:
    return [chat(f"row-{number}", f"Question {number}?") for number in numbers]


def test_rows_do_not_wait_for_the_next_one_and_neither_do_their_answers(
    begin: Begin, plays: Callable[[], None], tmp_path: Path
) -> None:
    plays()
    out = tmp_path / "out.jsonl"
    with begin("-o", "out.jsonl") as process:
        # the writer stops in the middle of a row; bad rows, which nobody sends, do not hold up the others
        half = json.dumps(chat("half", "The first half and the second?"))
        write(process, *questions(range(40)), "not JSON\n", half[:50])
        wait_until(lambda: len(lines(out)) == 40, "40 rows of a pipe that stays open are answered", 60)
        assert codes(tmp_path / "out.errors.jsonl") == {None: "invalid_job"}
        for number in range(40, 44):
            began = time.monotonic()
            write(process, half[50:] + "\n" if number == 40 else questions(range(number, number + 1))[0])
            wait_until(lambda: len(lines(out)) == number + 1, f"row {number} is answered")  # noqa: B023
            print(f"answered {time.monotonic() - began:.2f} s after it was written")
        process.communicate(timeout=30)
        assert process.returncode == 3
    assert answers(out).keys() == {*(f"row-{number}" for number in (*range(40), 41, 42, 43)), "half"}


def test_rows_of_a_detached_batch_are_on_the_queue_before_the_next_one_comes(begin: Begin, redis: Redis) -> None:
    with begin("--detach") as process:
        write(process, *questions(range(40)))
        wait_until(lambda: redis.zcard("vqa:deadlines") == 40, "40 rows of a pipe that stays open are on the queue", 60)
        process.communicate(timeout=30)
        assert process.returncode == 0


def test_ctrl_c_ends_a_submission_whose_pipe_is_silent(begin: Begin, plays: Callable[[], None], tmp_path: Path) -> None:
    plays()
    with begin("-o", "out.jsonl") as process:
        write(process, *questions(range(3)))
        wait_until(lambda: len(lines(tmp_path / "out.jsonl")) == 3, "the rows are answered", 60)
        process.send_signal(signal.SIGINT)
        # the pipe stays open
        assert process.wait(timeout=30) == 130
        assert process.stderr
        assert "run the same command again to resume" in process.stderr.read()
