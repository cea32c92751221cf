"""The same command again: after a kill, Ctrl-C, a lost Redis, a changed input; never a row twice, never one missing."""

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from producer import Client, JobGivenUp, PromptTooLong
from tests.producer.bulk.conftest import (
    Journal,
    Start,
    Submit,
    answers,
    chat,
    chats,
    codes,
    lines,
    write,
)
from tests.producer.conftest import COMMAND, PlayedWorker, answer, wait_until
from vqa.ledger.commands import outcome_key

Echoes = Callable[..., Any]


def waiting_for(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until so many lines are in a plain file, or its writer has ended."""
    wait_until(
        lambda: process.poll() is not None or (path.exists() and path.read_bytes().count(b"\n") >= count),
        f"{count} lines in {path}",
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "kills"), [("out.jsonl", 10), ("out.jsonl.gz", 4)])
def test_however_often_it_is_killed_the_file_is_the_undisturbed_one(
    submit: Submit,
    start_submit: Start,
    echoes: Echoes,
    tmp_path: Path,
    journal: Journal,
    redis: Redis,
    name: str,
    kills: int,
) -> None:
    # 100 rows a second at most, so that most kills come before the end
    echoes(VQA_ECHO_DELAY_S="0.04")
    count = 120 * kills
    rows = [*chats(count), chat("bad", "?", temperature=7), "no row\n"]
    write(tmp_path / "rows.jsonl", rows)
    draw = random.Random(5)
    cut_short = 0
    for _ in range(kills):
        process = start_submit("rows.jsonl", "-o", name, "--max-inflight", "40")
        time.sleep(draw.uniform(0.5, 2.5))
        process.kill()
        process.communicate(timeout=30)
        cut_short += process.returncode == -signal.SIGKILL
    assert cut_short > kills / 2
    assert submit("rows.jsonl", "-o", name).returncode == 3
    killed = journal.runs()
    assert submit("rows.jsonl", "-o", "undisturbed.jsonl").returncode == 3
    assert answers(tmp_path / name) == answers(tmp_path / "undisturbed.jsonl")
    errors = tmp_path / name.replace("out.", "out.errors.")
    assert codes(errors) == codes(tmp_path / "undisturbed.errors.jsonl") == {"bad": "invalid_job", None: "invalid_job"}
    # rows in flight were picked up, not run again
    assert killed == count
    assert not list(redis.scan_iter(outcome_key("*")))


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.jsonl.zst"])
def test_a_torn_last_line_is_repaired_and_its_row_sent_again(
    submit: Submit, plays: Callable[[], None], tmp_path: Path, journal: Journal, name: str
) -> None:
    plays()
    write(tmp_path / "rows.jsonl", chats(10))
    assert submit("rows.jsonl", "-o", name).returncode == 0
    whole = answers(tmp_path / name)
    out = tmp_path / name
    out.write_bytes(out.read_bytes()[:-5])
    assert submit("rows.jsonl", "-o", name).returncode == 0
    assert answers(out) == whole
    assert journal.runs() > 10


def test_changed_rows_are_sent_as_new_and_replace_their_lines(
    submit: Submit, plays: Callable[[], None], tmp_path: Path, journal: Journal, png: bytes
) -> None:
    plays()
    image = tmp_path / "teal.png"
    image.write_bytes(png)
    shown = [{"type": "image_url", "image_url": {"url": f"file://{image}"}}, {"type": "text", "text": "?"}]
    imaged = chat("imaged", "?")
    imaged["body"]["messages"][0]["content"] = shown
    broken = chat("broken", "?", temperature=7)
    write(tmp_path / "rows.jsonl", [chat("same", "?"), chat("other", "?"), chat("gone", "?"), imaged, broken])
    assert submit("rows.jsonl", "-o", "out.jsonl").returncode == 3
    first = {line["custom_id"]: line["id"] for line in lines(tmp_path / "out.jsonl")}
    image.write_bytes(png + b"changed")
    write(tmp_path / "rows.jsonl", [chat("same", "?"), chat("other", "!"), imaged, chat("broken", "mended")])
    done = submit("rows.jsonl", "-o", "out.jsonl")
    assert done.returncode == 0, done.stderr
    second = {line["custom_id"]: line["id"] for line in lines(tmp_path / "out.jsonl")}
    assert second.keys() == {"same", "other", "gone", "imaged", "broken"}
    assert len(lines(tmp_path / "out.jsonl")) == 5
    # what is not asked any more was answered once, and stays
    assert {name for name in first if second.get(name) == first[name]} == {"same", "gone"}
    assert not lines(tmp_path / "out.errors.jsonl")
    assert journal.runs() == 4 + 3
    assert "5 answered, 0 failed" in done.stderr


def test_answers_stay_where_images_cannot_be_read_for_the_moment(
    submit: Submit, plays: Callable[[], None], tmp_path: Path, journal: Journal, png: bytes
) -> None:
    plays()
    (tmp_path / "images").mkdir()
    for number in range(4):
        (tmp_path / f"images/{number}.png").write_bytes(png)
    rows = [{"id": f"q{number}", "image": f"images/{number}.png", "question": "?"} for number in range(4)]
    write(tmp_path / "rows.jsonl", rows)
    command = ("rows.jsonl", "-o", "out.jsonl", "--errors", "errors.jsonl")
    assert submit(*command).returncode == 0
    whole = (tmp_path / "out.jsonl").read_bytes()
    (tmp_path / "images").rename(tmp_path / "away")
    away = submit(*command)
    assert away.returncode == 3
    assert "4 answered, 4 failed" in away.stderr
    assert (tmp_path / "out.jsonl").read_bytes() == whole
    (tmp_path / "away").rename(tmp_path / "images")
    back = submit(*command)
    assert back.returncode == 0, back.stderr
    assert (tmp_path / "out.jsonl").read_bytes() == whole
    assert not lines(tmp_path / "errors.jsonl")
    assert journal.runs() == 4


def test_answers_stay_where_no_worker_serves_the_model_that_is_asked_for_now(
    submit: Submit, plays: Callable[[], None], tmp_path: Path, journal: Journal
) -> None:
    plays()
    write(tmp_path / "rows.jsonl", [chat("q", "?")])
    assert submit("rows.jsonl", "-o", "out.jsonl").returncode == 0
    whole = (tmp_path / "out.jsonl").read_bytes()
    assert submit("rows.jsonl", "-o", "out.jsonl", "--model", "gone").returncode == 3
    assert (tmp_path / "out.jsonl").read_bytes() == whole
    assert journal.runs() == 1


def test_a_glob_is_gone_on_with(
    submit: Submit, plays: Callable[[], None], tmp_path: Path, journal: Journal, png: bytes
) -> None:
    plays()
    (tmp_path / "one.png").write_bytes(png)
    for _ in range(2):
        assert submit("*.png", "--question", "?", "-o", "out.jsonl").returncode == 0
    assert journal.runs() == 1


def test_one_file_for_answers_and_errors_is_one_file_however_it_is_named(
    submit: Submit, plays: Callable[[], None], tmp_path: Path
) -> None:
    plays()
    write(tmp_path / "rows.jsonl", [*chats(3), chat("too-hot", "?", temperature=7)])
    for _ in range(2):
        assert submit("rows.jsonl", "-o", "out.jsonl", "--errors", tmp_path / "out.jsonl").returncode == 3
        assert len(lines(tmp_path / "out.jsonl")) == 4


def test_rows_that_have_expired_are_sent_again_and_the_batch_counts_what_became_of_them(
    submit: Submit, plays: Callable[[], None], tmp_path: Path, client: Client
) -> None:
    write(tmp_path / "rows.jsonl", chats(8))
    first = submit("rows.jsonl", "-o", "out.jsonl", "--within", "1")
    assert first.returncode == 3
    batch = json.loads((tmp_path / "out.jsonl.batch").read_text())["batch"]
    assert client.batches.retrieve(batch).state().status == "expired"
    plays()
    assert submit("rows.jsonl", "-o", "out.jsonl", "--retry-failed").returncode == 0
    assert len(answers(tmp_path / "out.jsonl")) == 8
    state = client.batches.retrieve(batch).state()
    assert (state.completed, state.failed, state.total) == (8, 0, 8)


def test_how_jobs_are_sent_may_change_between_runs(
    submit: Submit, plays: Callable[[], None], tmp_path: Path, journal: Journal
) -> None:
    plays()
    write(tmp_path / "rows.jsonl", chats(5))
    assert submit("rows.jsonl", "-o", "out.jsonl").returncode == 0
    options = ("--lane", "interactive", "--timeout", "30", "--tenant", "lab", "--max-inflight", "1")
    assert submit("rows.jsonl", "-o", "out.jsonl", *options).returncode == 0
    assert journal.runs() == 5


def test_two_runs_never_write_one_file(submit: Submit, start_submit: Start, tmp_path: Path, redis: Redis) -> None:
    write(tmp_path / "rows.jsonl", chats(3))
    first = start_submit("rows.jsonl", "-o", "out.jsonl")
    try:
        wait_until(lambda: redis.keys("vqa:job:*"), "the first run's jobs")
        second = submit("rows.jsonl", "-o", "out.jsonl")
        assert second.returncode == 2
        assert "another `vqa submit` is writing out.jsonl" in second.stderr
    finally:
        first.kill()
        first.communicate(timeout=30)
    assert len(redis.keys("vqa:job:*")) == 3


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_stopped_run_says_how_to_go_on_and_its_jobs_go_on(
    submit: Submit,
    start_submit: Start,
    worker: PlayedWorker,
    tmp_path: Path,
    redis: Redis,
    number: signal.Signals,
    status: int,
) -> None:
    write(tmp_path / "rows.jsonl", chats(3))
    process = start_submit("rows.jsonl", "-o", "out.jsonl")
    wait_until(lambda: len(redis.keys("vqa:job:*")) == 3, "three jobs")
    first, *others = sorted(key.decode().removeprefix("vqa:job:") for key in redis.keys("vqa:job:*"))
    worker.close(first, answer(first, "early"))
    waiting_for(tmp_path / "out.jsonl", 1, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == status
    assert said == "vqa: submitted jobs keep running; run the same command again to resume\n"
    for id in others:
        worker.close(id, answer(id, "late"))
    assert submit("rows.jsonl", "-o", "out.jsonl").returncode == 0
    assert sorted(answers(tmp_path / "out.jsonl").values()) == ["early", "late", "late"]


def test_answers_on_a_stream_are_not_worth_going_on(start_submit: Start, tmp_path: Path, redis: Redis) -> None:
    write(tmp_path / "rows.jsonl", chats(3))
    process = start_submit("rows.jsonl")
    wait_until(lambda: len(redis.keys("vqa:job:*")) == 3, "three jobs")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "name a file with -o" in said
    assert not redis.keys("vqa:job:*")


def test_rows_that_redis_lost_are_sent_by_the_same_command(
    submit: Submit, start_submit: Start, plays: Callable[[], None], tmp_path: Path, redis: Redis
) -> None:
    write(tmp_path / "rows.jsonl", chats(3))
    process = start_submit("rows.jsonl", "-o", "out.jsonl")
    wait_until(lambda: len(redis.keys("vqa:job:*")) == 3, "three jobs")
    redis.flushall()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "Redis lost 3 rows; run the same command again to send them" in said
    plays()
    assert submit("rows.jsonl", "-o", "out.jsonl").returncode == 0
    assert len(answers(tmp_path / "out.jsonl")) == 3


def test_failed_rows_are_sent_again_only_where_that_is_asked_for(
    submit: Submit, answering: Callable[..., None], worker: PlayedWorker, tmp_path: Path, redis: Redis, client: Any
) -> None:
    mended = False
    runs: list[str] = []

    def behave(job: Any, lease: Any) -> Any:
        runs.append(job.id)
        return answer(job.id, "mended") if mended else PromptTooLong("too long")

    write(tmp_path / "rows.jsonl", [*chats(3), chat("bad", "?", temperature=7)])
    process = subprocess.Popen(
        [*COMMAND, "submit", "rows.jsonl", "-o", "out.jsonl"],
        cwd=tmp_path,
        env=_environment_of(client),
        stderr=subprocess.PIPE,
    )
    wait_until(lambda: len(redis.keys("vqa:job:*")) == 3, "three jobs")
    dead, *_ = sorted(key.decode().removeprefix("vqa:job:") for key in redis.keys("vqa:job:*"))
    worker.give_up(dead)
    answering(behave)
    process.communicate(timeout=30)
    assert process.returncode == 3
    failed = codes(tmp_path / "out.errors.jsonl")
    assert sorted(failed.values()) == ["invalid_job", "job_given_up", "prompt_too_long", "prompt_too_long"]
    assert len(runs) == 2
    mended = True
    assert submit("rows.jsonl", "-o", "out.jsonl").returncode == 3
    assert len(runs) == 2
    again = submit("rows.jsonl", "-o", "out.jsonl", "--retry-failed")
    assert again.returncode == 3
    assert set(answers(tmp_path / "out.jsonl").values()) == {"mended"}
    assert codes(tmp_path / "out.errors.jsonl") == {"bad": "invalid_job"}
    assert sorted(runs[2:]) == sorted({dead, *runs[:2]})
    assert client.dead_letters.count() == 0
    id = json.loads((tmp_path / "out.jsonl.batch").read_text())["batch"]
    state = client.batches.retrieve(id).state()
    assert (state.completed, state.failed, state.codes) == (3, 1, {"invalid_job": 1})


def _environment_of(client: Any) -> dict[str, str]:
    import os

    from tests.producer.conftest import ROOT

    return os.environ | {"VQA_REDIS_URL": client.settings.redis_url, "PYTHONPATH": str(ROOT)}


def test_a_dead_letter_counts_as_failed_although_its_line_was_lost(
    submit: Submit, answering: Callable[..., None], tmp_path: Path
) -> None:
    runs: list[str] = []

    def behave(job: Any, lease: Any) -> Any:
        runs.append(job.id)
        return JobGivenUp("given up")

    answering(behave)
    write(tmp_path / "rows.jsonl", chats(1))
    assert submit("rows.jsonl", "-o", "out.jsonl").returncode == 3
    (tmp_path / "out.errors.jsonl").unlink()
    assert submit("rows.jsonl", "-o", "out.jsonl").returncode == 3
    assert codes(tmp_path / "out.errors.jsonl") == {"row-0": "job_given_up"}
    assert len(runs) == 1


def test_restart_begins_anew_and_cancels_what_is_open(
    submit: Submit, start_submit: Start, plays: Callable[[], None], tmp_path: Path, redis: Redis, journal: Journal
) -> None:
    write(tmp_path / "rows.jsonl", chats(3))
    process = start_submit("rows.jsonl", "-o", "out.jsonl")
    wait_until(lambda: len(redis.keys("vqa:job:*")) == 3, "three jobs")
    process.kill()
    process.communicate(timeout=30)
    old = json.loads((tmp_path / "out.jsonl.batch").read_text())["batch"]
    (tmp_path / "out.jsonl").write_text("of the old batch\n")
    plays()
    anew = submit("rows.jsonl", "-o", "out.jsonl", "--restart")
    assert anew.returncode == 0
    assert f"cancelling the open jobs of {old}" in anew.stderr
    assert json.loads((tmp_path / "out.jsonl.batch").read_text())["batch"] != old
    assert len(answers(tmp_path / "out.jsonl")) == 3
    assert not redis.keys("vqa:job:*")


def test_another_input_never_takes_over_a_file(submit: Submit, plays: Callable[[], None], tmp_path: Path) -> None:
    plays()
    write(tmp_path / "rows.jsonl", chats(3))
    write(tmp_path / "others.jsonl", [chat("other", "?")])
    assert submit("rows.jsonl", "-o", "out.jsonl").returncode == 0
    before = (tmp_path / "out.jsonl").read_bytes()
    refused = submit("others.jsonl", "-o", "out.jsonl")
    assert refused.returncode == 2
    assert "out.jsonl belongs to another input" in refused.stderr
    assert (tmp_path / "out.jsonl").read_bytes() == before
    assert submit("others.jsonl", "-o", "out.jsonl", "--restart").returncode == 0
    assert answers(tmp_path / "out.jsonl").keys() == {"other"}


def test_another_file_for_errors_sends_no_failed_row_again(
    submit: Submit, plays: Callable[[], None], tmp_path: Path
) -> None:
    plays()
    write(tmp_path / "rows.jsonl", [*chats(2), "no row\n"])
    assert submit("rows.jsonl", "-o", "out.jsonl").returncode == 3
    refused = submit("rows.jsonl", "-o", "out.jsonl", "--errors", "elsewhere.jsonl")
    assert refused.returncode == 2
    assert "out.errors.jsonl; pass it as --errors" in refused.stderr
    assert submit("rows.jsonl", "-o", "out.jsonl", "--errors", "out.errors.jsonl").returncode == 3


def test_a_folder_of_answers_may_be_moved(
    submit: Submit, plays: Callable[[], None], tmp_path: Path, journal: Journal
) -> None:
    plays()
    write(tmp_path / "rows.jsonl", [*chats(2), "no row\n"])
    (tmp_path / "here").mkdir()
    assert submit("rows.jsonl", "-o", "here/out.jsonl").returncode == 3
    (tmp_path / "here").rename(tmp_path / "there")
    assert submit("rows.jsonl", "-o", "there/out.jsonl").returncode == 3
    assert journal.runs() == 2


def test_what_a_later_release_remembers_of_a_batch_is_let_pass(
    submit: Submit, plays: Callable[[], None], tmp_path: Path, journal: Journal
) -> None:
    plays()
    write(tmp_path / "rows.jsonl", chats(2))
    assert submit("rows.jsonl", "-o", "out.jsonl").returncode == 0
    sidecar = tmp_path / "out.jsonl.batch"
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"colour": "red"}) + "\n")
    assert submit("rows.jsonl", "-o", "out.jsonl").returncode == 0
    assert journal.runs() == 2
    sidecar.write_text("what nobody can read\n")
    assert submit("rows.jsonl", "-o", "out.jsonl").returncode == 2
    assert sidecar.read_text() == "what nobody can read\n"


def test_rows_from_stdin_are_gone_on_with(
    submit: Submit, plays: Callable[[], None], tmp_path: Path, journal: Journal
) -> None:
    plays()
    given = write(tmp_path / "rows.jsonl", chats(5)).read_text()
    assert submit("-", "-o", "out.jsonl", input=given).returncode == 0
    assert submit("-", "-o", "out.jsonl", input=given).returncode == 0
    assert journal.runs() == 5
    assert len(answers(tmp_path / "out.jsonl")) == 5
