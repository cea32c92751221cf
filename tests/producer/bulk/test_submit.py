"""`vqa submit` with real workers: what comes into OUT and ERR, what is left in Redis, and how the command ends."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from PIL import Image
from redis import Redis

from producer import Client, PromptTooLong
from producer.demo.redis_server import free_port
from tests.producer.bulk.conftest import (
    Journal,
    Submit,
    answers,
    chat,
    chats,
    codes,
    lines,
    write,
)
from tests.producer.conftest import echo
from vqa.images.formats import NAMES
from vqa.ledger.commands import outcome_key

Echoes = Callable[..., Any]


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.jsonl.zst"])
def test_every_row_is_answered_once_and_nothing_is_left_in_redis(
    submit: Submit, echoes: Echoes, plays: Callable[[], None], tmp_path: Path, redis: Redis, name: str
) -> None:
    # how its output is packed is nothing to a worker
    start = echoes if name == "out.jsonl" else plays
    start()
    rows = write(tmp_path / "rows.jsonl", chats(300))
    done = submit(rows, "-o", name)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines()[0] == "300 answered, 0 failed"
    assert answers(tmp_path / name).keys() == {f"row-{number}" for number in range(300)}
    assert not list(redis.scan_iter(outcome_key("*")))
    assert not list(redis.scan_iter("vqa:job:*"))


def test_a_batch_is_known_in_redis(submit: Submit, plays: Callable[[], None], tmp_path: Path, client: Client) -> None:
    plays()
    write(tmp_path / "rows.jsonl", [*chats(3), "no row\n"])
    assert submit("rows.jsonl", "-o", "out.jsonl", "--tenant", "lab").returncode == 3
    id = json.loads((tmp_path / "out.jsonl.batch").read_text())["batch"]
    state = client.batches.retrieve(id).state()
    assert (state.status, state.total, state.completed, state.failed) == ("completed", 4, 3, 1)
    assert (state.codes, state.tenant, state.lane) == ({"invalid_job": 1}, "lab", "bulk")
    assert all(line["id"].startswith(f"{id}:") for line in lines(tmp_path / "out.jsonl"))


def test_the_same_command_twice_runs_nothing(
    submit: Submit, plays: Callable[[], None], tmp_path: Path, journal: Journal, redis: Redis
) -> None:
    plays()
    bad = chat("too-hot", "?", temperature=7)
    rows = write(tmp_path / "rows.jsonl", [*chats(20), bad])
    first = submit(rows, "-o", "out.jsonl")
    before = (tmp_path / "out.jsonl").read_bytes(), (tmp_path / "out.errors.jsonl").read_bytes()
    redis.flushall()
    second = submit(rows, "-o", "out.jsonl")
    assert journal.runs() == 20
    assert (first.returncode, second.returncode) == (3, 3)
    assert ((tmp_path / "out.jsonl").read_bytes(), (tmp_path / "out.errors.jsonl").read_bytes()) == before
    assert "21 rows, 21 of them by earlier runs" in second.stderr


def test_failed_rows_have_a_file_of_their_own(
    submit: Submit, answering: Callable[..., None], tmp_path: Path, png: bytes
) -> None:
    answering(lambda job, lease: PromptTooLong("too long") if "1?" in job.to_json().decode() else echo(job, lease))
    (tmp_path / "text.png").write_text("no image")
    shown = chat("no-image", "?")
    shown["body"]["messages"][0]["content"] = [
        {"type": "image_url", "image_url": {"url": f"file://{tmp_path}/text.png"}},
        {"type": "text", "text": "?"},
    ]
    write(tmp_path / "rows.jsonl", [*chats(3), "{\n", shown, chat("row-0", "the same id")])
    done = submit("rows.jsonl", "-o", "out.jsonl")
    assert done.returncode == 3
    assert answers(tmp_path / "out.jsonl").keys() == {"row-0", "row-2"}
    failed = {(line["custom_id"], line["error"]["line"]): line for line in lines(tmp_path / "out.errors.jsonl")}
    assert {place: line["error"]["code"] for place, line in failed.items()} == {
        ("row-1", 2): "prompt_too_long",
        (None, 4): "invalid_job",
        ("no-image", 5): "bad_image",
        ("row-0", 6): "invalid_job",
    }
    assert all(line["response"] is None for line in failed.values())
    assert "vqa: line 4: InvalidJob: not JSON\n" in done.stderr
    assert "2 answered, 4 failed (bad_image 1, invalid_job 2, prompt_too_long 1)\n" in done.stderr


def test_strict_sends_nothing_where_any_row_is_bad(submit: Submit, tmp_path: Path, png: bytes, redis: Redis) -> None:
    (tmp_path / "teal.png").write_bytes(png)
    (tmp_path / "text.png").write_text("no image")
    rows = [{"id": name, "image": f"{name}.png", "question": "?"} for name in ("teal", "text", "missing")]
    write(tmp_path / "rows.jsonl", [*rows, "no row\n"])
    done = submit("rows.jsonl", "-o", "out.jsonl", "--strict")
    assert done.returncode == 2
    told = done.stderr.splitlines()
    assert [line.partition(": ")[2].split(":")[:2] for line in told[:3]] == [
        ["line 4", " InvalidJob"],
        ["line 2", " BadImage"],
        ["line 3", " BadImage"],
    ]
    assert told[3] == "vqa: 3 invalid rows; nothing was sent"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "teal.png", "text.png"]
    assert not redis.keys("vqa:job:*")


def test_strict_sends_all_where_none_is(submit: Submit, plays: Callable[[], None], tmp_path: Path) -> None:
    plays()
    write(tmp_path / "rows.jsonl", chats(5))
    assert submit("rows.jsonl", "-o", "out.jsonl", "--strict").returncode == 0
    assert len(answers(tmp_path / "out.jsonl")) == 5
    piped = submit("-", "--strict", input=(tmp_path / "rows.jsonl").read_text())
    assert piped.returncode == 2
    assert "--strict reads the input twice" in piped.stderr


def animation(*colours: str) -> bytes:
    first, *rest = (Image.new("RGB", (20, 20), colour) for colour in colours)
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=rest)
    return buffer.getvalue()


def test_frames_that_no_row_asks_about_are_counted_and_refused_by_strict(
    submit: Submit, echoes: Echoes, tmp_path: Path, png: bytes
) -> None:
    echoes()
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans/a.png").write_bytes(png)
    (tmp_path / "scans/b.gif").write_bytes(animation("red", "green", "blue"))
    ask = ("scans", "--question", "What is it?", "--question", "What colour?", "-o", "out.jsonl")
    refused = submit(*ask, "--strict")
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [
        "vqa: line 2: BadImage: only a part would be asked about: b.gif (the first of 3); split it",
        "vqa: line 2: BadImage: only a part would be asked about: b.gif (the first of 3); split it",
        "vqa: 2 invalid rows; nothing was sent",
    ]
    done = submit(*ask)
    assert done.returncode == 0, done.stderr
    told = re.fullmatch("2 rows were asked about the first frame only: (.*)", done.stderr.splitlines()[-1])
    assert told
    assert set(told[1].split(", ")) == {"b.gif", "b.gif#2"}
    # a run that was killed has printed nothing: the next one says it
    assert submit(*ask).stderr.splitlines()[-1].startswith("2 rows were asked about the first frame only: ")


def test_what_was_not_asked_about_is_counted_in_the_summary(
    submit: Submit, plays: Callable[[], None], tmp_path: Path, png: bytes
) -> None:
    plays()
    (tmp_path / "a.png").write_bytes(png)
    rows = [f"{number},a.png,?" for number in range(2, 501)]
    rows[2] = '4,a.png,"?'
    (tmp_path / "in.csv").write_text("\n".join(["id,image,question", *rows]))
    assert submit("in.csv", "-o", "out.jsonl", "--strict").returncode == 2
    done = submit("in.csv", "-o", "out.jsonl")
    assert done.returncode == 3
    assert "2 answered, 1 failed (invalid_job 1)\n" in done.stderr
    assert "\n496 lines were not asked about: they were read as parts of rows that are not CSV\n" in done.stderr


def test_files_that_are_no_images_are_told_for_what_they_are(
    submit: Submit, plays: Callable[[], None], tmp_path: Path
) -> None:
    plays()
    (tmp_path / "p").mkdir()
    for name, data in {"a.jpg": b"", "b.jpg": b"<html>", "c.jpg": b"%PDF-1.7", "d.tga": b""}.items():
        (tmp_path / "p" / name).write_bytes(data)
    done = submit("p", "--question", "?", "-o", "out.jsonl")
    assert done.returncode == 3
    told = [line["error"]["message"] for line in lines(tmp_path / "out.errors.jsonl")]
    folder = tmp_path / "p"
    assert sorted(told) == [
        f"{folder}/a.jpg: the file is empty: it has 0 bytes",
        f"{folder}/b.jpg: not an image in one of the formats {NAMES} (it is a text such as SVG or HTML)",
        f"{folder}/c.jpg: a PDF document: PDF files are not taken here (VQA_PDF=1 takes them)",
        "d.tga: TGA files cannot be read; convert it: magick d.tga d.jpg",
    ]


def test_a_folder_of_images_is_asked_about(
    submit: Submit, plays: Callable[[], None], tmp_path: Path, png: bytes, redis: Redis
) -> None:
    plays()
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.png").write_bytes(png)
    done = submit("photos", "--question", "What is it?", "--question", "What colour?", "-o", "out.jsonl")
    assert done.returncode == 0, done.stderr
    assert len(answers(tmp_path / "out.jsonl")) == 60
    # one content
    assert len(list(redis.scan_iter("vqa:image:*"))) == 1


def test_the_former_name_of_the_images_form_works_and_is_deprecated(
    submit: Submit, plays: Callable[[], None], tmp_path: Path, png: bytes
) -> None:
    plays()
    (tmp_path / "teal.png").write_bytes(png)
    done = submit("teal.png", "--form", "pictures", "--question", "What is it?", "-o", "out.jsonl")
    assert done.returncode == 0
    assert done.stderr.splitlines()[0] == "vqa: --form pictures is deprecated; use --form images"
    assert len(answers(tmp_path / "out.jsonl")) == 1
    # a record that an older release wrote is resumed
    record = tmp_path / "out.jsonl.batch"
    record.write_text(record.read_text().replace('"images"', '"pictures"'))
    done = submit("teal.png", "--question", "What is it?", "-o", "out.jsonl")
    assert done.returncode == 0, done.stderr
    assert "1 rows, 1 of them by earlier runs" in done.stderr
    assert "pictures" not in submit("--help").stdout


def test_quiet_prints_errors_only(submit: Submit, plays: Callable[[], None], tmp_path: Path) -> None:
    plays()
    write(tmp_path / "rows.jsonl", [*chats(2), "no row\n"])
    done = submit("rows.jsonl", "-o", "out.jsonl", "--quiet")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "vqa: line 3: InvalidJob: not JSON\n"
    assert len(answers(tmp_path / "out.jsonl")) == 2


@pytest.mark.parametrize("arguments", [["rows.zst", "-o", "out.jsonl"], ["rows.jsonl", "-o", "out.jsonl.zst"]])
def test_zstd_is_refused_before_anything_is_written_where_it_is_not_installed(
    tmp_path: Path, environment: dict[str, str], arguments: list[str]
) -> None:
    write(tmp_path / "rows.jsonl", chats(1))
    (tmp_path / "rows.zst").write_bytes(zstandard.compress((tmp_path / "rows.jsonl").read_bytes()))
    (tmp_path / arguments[-1]).write_text("kept\n")
    code = "import sys; sys.modules['zstandard'] = None; from producer.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "submit", *arguments, "--restart"],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "pip install 'vqa-queue[zstd]'" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["rows.jsonl", "rows.zst", arguments[-1]])
    assert (tmp_path / arguments[-1]).read_text() == "kept\n"


def test_images_are_not_held_for_the_whole_window(
    plays: Callable[[], None], tmp_path: Path, png: bytes, environment: dict[str, str]
) -> None:
    """150 images of 4 MiB, all different, with a fraction of that in memory."""
    plays()
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(150):
        with (folder / f"{number}.png").open("wb") as file:
            file.write(png + str(number).encode())
            file.truncate(4 * 2**20)
    # not ru_maxrss: in that the process that started it counts, too
    measured = "import re, sys; sys.stderr.write(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    code = f"import atexit; atexit.register(lambda: exec({measured!r})); from producer.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "submit", "photos", "--question", "?", "-o", "out.jsonl"],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert len(answers(tmp_path / "out.jsonl")) == 150
    assert int(done.stderr.splitlines()[-1]) < 300 * 1024


def test_the_short_form_keeps_its_lines_with_errors_among_them(
    submit: Submit, echoes: Echoes, tmp_path: Path, png: bytes
) -> None:
    echoes()
    (tmp_path / "teal.png").write_bytes(png)
    rows = [{"id": f"q{number}", "image": "teal.png", "question": f"{number}?"} for number in range(3)]
    write(tmp_path / "rows.jsonl", [*rows, "no row\n"])
    assert submit("rows.jsonl", "-o", "out.jsonl").returncode == 3
    found = {line["id"]: line for line in lines(tmp_path / "out.jsonl")}
    assert found.keys() == {"q0", "q1", "q2", None}
    assert found["q0"]["answer"].startswith("echo:")
    assert found[None]["error"] == {"code": "invalid_job", "message": "line 4: not JSON"}
    assert not (tmp_path / "out.errors.jsonl").exists()
    assert submit("rows.jsonl", "-o", "two.jsonl", "--errors", "err.jsonl").returncode == 3
    assert [line["id"] for line in lines(tmp_path / "err.jsonl")] == [None]
    assert len(lines(tmp_path / "two.jsonl")) == 3


def test_without_a_file_the_answers_go_to_stdout(submit: Submit, plays: Callable[[], None], tmp_path: Path) -> None:
    plays()
    write(tmp_path / "rows.jsonl", [*chats(3), "no row\n"])
    for out in ([], ["-o", "-"]):
        done = submit("rows.jsonl", *out)
        assert done.returncode == 3
        assert [json.loads(line)["custom_id"] for line in sorted(done.stdout.splitlines())].count(None) == 1
        assert len(done.stdout.splitlines()) == 4
    assert sorted(path.name for path in tmp_path.iterdir() if "rows" not in path.name) == ["journal"]


def test_rows_that_are_not_sent_in_time_have_expired(
    submit: Submit, echoes: Echoes, tmp_path: Path, journal: Journal
) -> None:
    echoes(VQA_ECHO_DELAY_S="0.5")
    write(tmp_path / "rows.jsonl", chats(100))
    done = submit("rows.jsonl", "-o", "out.jsonl", "--within", "3", "--max-inflight", "20")
    assert done.returncode == 3
    answered, failed = answers(tmp_path / "out.jsonl"), codes(tmp_path / "out.errors.jsonl")
    assert set(failed.values()) == {"batch_expired"}
    assert answered
    assert answered.keys() | failed.keys() == {f"row-{number}" for number in range(100)}
    runs = journal.runs()
    # its time is over for the same command, too
    assert submit("rows.jsonl", "-o", "out.jsonl", "--within", "3").returncode == 3
    assert journal.runs() == runs


def test_a_row_that_names_a_image_that_is_not_stored_fails_alone(
    submit: Submit, plays: Callable[[], None], tmp_path: Path
) -> None:
    plays()
    gone = {"id": "gone", "image": "sha256:" + "0" * 64, "question": "?"}
    (tmp_path / "teal.png").write_bytes(b"")
    write(tmp_path / "rows.jsonl", [gone, {**gone, "id": "empty", "image": "teal.png"}])
    assert submit("rows.jsonl", "-o", "out.jsonl").returncode == 3
    found = {line["id"]: line["error"]["code"] for line in lines(tmp_path / "out.jsonl")}
    assert found == {"gone": "image_missing", "empty": "bad_image"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rows.jsonl", "-o", "rows.jsonl"], "rows.jsonl is an input"),
        (["rows.jsonl", "-o", "out.jsonl", "--errors", "rows.jsonl"], "rows.jsonl is an input"),
        (["rows.jsonl", "-o", "mine.txt"], "mine.txt exists, but mine.txt.batch to resume it from does not"),
        (["rows.jsonl", "-o", "out.jsonl", "--tenant", "no name"], "tenant"),
        (["missing.jsonl", "-o", "out.jsonl"], "missing.jsonl"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_changed(
    submit: Submit, tmp_path: Path, arguments: list[str], said: str
) -> None:
    write(tmp_path / "rows.jsonl", chats(1))
    (tmp_path / "mine.txt").write_text("mine\n")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    done = submit(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_redis_that_is_away_is_a_temporary_failure(
    submit: Submit, tmp_path: Path, environment: dict[str, str]
) -> None:
    write(tmp_path / "rows.jsonl", chats(1))
    environment["VQA_REDIS_URL"] = f"redis://127.0.0.1:{free_port()}/0"
    done = submit("rows.jsonl", "-o", "out.jsonl")
    assert done.returncode == 75
    assert "run the same command again to resume" in done.stderr
