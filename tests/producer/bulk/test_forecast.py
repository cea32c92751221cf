"""`vqa submit` says at once that its --within is too short; Redis tells of answers that the tests made up."""

import gzip
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from producer import Client
from producer.inputs import Columns, RowCount, detect_source, read_rows
from tests.producer.conftest import COMMAND, Vqa, wait_until
from vqa.ledger.ledger import Ledger

#: seconds
LEASE_S = 9.0


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    body = {"messages": [{"role": "user", "content": "?"}]}
    lines = (
        {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for number in range(400)
    )
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def slow(redis: Redis) -> Iterator[None]:
    """A worker that has answered a job a second for five minutes, and stays up."""
    over = threading.Event()

    def renew() -> None:
        while True:
            Ledger(redis).renew("card0@host", [], LEASE_S, {"slots": 4})
            if over.wait(1):
                return

    newest = redis.time()[0] // 10
    for age in range(31):
        redis.set(f"vqa:closed:bulk:{newest - age}", 10)
    Ledger(redis).renew("card0@host", [], LEASE_S, {"slots": 4})
    renewing = threading.Thread(target=renew)
    renewing.start()
    yield
    over.set()
    renewing.join()


@pytest.mark.usefixtures("slow")
def test_a_detached_batch_that_will_be_late_is_told_and_sent_all_the_same(vqa: Vqa, rows: Path) -> None:
    sent = vqa("submit", rows, "--detach", "--within", "60")
    assert sent.returncode == 0
    assert "at the rate of the last minutes the batch ends about" in sent.stderr
    assert "start more workers, or allow it 7 min" in sent.stderr
    assert "400 rows are on the queue" in sent.stderr
    shown = vqa("status", sent.stdout.strip()).stdout
    assert "0 of 400 rows done, 0 failed, 400 to go\nends about" in shown
    assert ", after its limit at " in shown
    told = json.loads(vqa("status", sent.stdout.strip(), "--json").stdout)["prediction"]
    assert (told["in_time"], told["unknown"]) == (False, None)


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize(
    "options", [["--within", "3600"], [], ["--within", "60", "--quiet"]], ids=["enough", "none", "quiet"]
)
def test_nothing_is_said_that_need_not_be(vqa: Vqa, rows: Path, options: list[str]) -> None:
    assert "rate" not in vqa("submit", rows, "--detach", *options).stderr


def test_that_it_cannot_be_told_is_said(vqa: Vqa, rows: Path) -> None:
    sent = vqa("submit", rows, "--detach", "--within", "60")
    assert sent.returncode == 0
    assert f"end unknown: no worker is up; `vqa status {sent.stdout.strip()}` tells it later" in sent.stderr


@pytest.mark.usefixtures("slow")
def test_a_run_that_waits_says_it_before_its_first_answer(
    environment: dict[str, str], rows: Path, tmp_path: Path, client: Client
) -> None:
    log = tmp_path / "log"
    command = [*COMMAND, "submit", rows, "-o", tmp_path / "out.jsonl", "--within", "60"]
    with log.open("wb") as stderr, subprocess.Popen(command, env=environment, stderr=stderr) as run:
        try:
            wait_until(lambda: b"start more workers" in log.read_bytes(), "the warning", 60)
            [batch] = client.batches.list()
            assert (batch.expected, batch.sealed) == (400, False)
        finally:
            run.send_signal(signal.SIGINT)
            run.wait(60)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "more/c.png", "notes.txt"):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("in.jsonl", '{"id": "a", "image": "a.png", "question": "?"}\n\nbroken\n', id="lines"),
        pytest.param("in.csv", 'id,image,question\n1,a.png,"two\nlines"\n\n2,b.png,?\n', id="csv"),
        pytest.param("in.csv", 'id;image;question\n1;a.png;"two\nlines"\n2;b.png;?\n', id="semicolons"),
        pytest.param("in.jsonl", '{"id": "a", "image": "a.png", "question": "?"}\n' + "x" * 2**21, id="long-line"),
        pytest.param("in.jsonl", " " * 2**20 + ' \n\n{"id": "a"}\n{"id": "b"}', id="long-blank-line"),
    ],
)
def test_rows_are_counted_ahead_as_they_are_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    source = detect_source([str(tmp_path / name)])
    assert counted(RowCount(source)) == len(list(read_rows(source))) == 2


def test_images_and_questions_are_counted(photos: Path, tmp_path: Path) -> None:
    source = detect_source([str(photos)], questions=["a?", "b?"])
    assert counted(RowCount(source)) == len(list(read_rows(source))) == 6
    (tmp_path / "in.csv").write_text("id,photo\n1,a.png\n2,b.png\n")
    table = detect_source([str(tmp_path / "in.csv")], questions=["a?", "b?"], columns=Columns(image="photo"))
    assert counted(RowCount(table)) == len(list(read_rows(table))) == 4


def test_a_file_that_cannot_be_read_is_not_counted(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(b'{"id": "a"}\n' * 1000)[:-12])
    source = detect_source([str(tmp_path / "in.jsonl.gz")], form="short")
    assert counted(RowCount(source)) is None


def test_an_empty_file_among_several_takes_no_row_away(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("")
    (tmp_path / "b.csv").write_text("id,image,question\n1,a.png,?\n2,b.png,?\n")
    assert counted(RowCount(detect_source([str(tmp_path / "*.csv")]))) == 2


def test_a_line_that_expands_to_gigabytes_takes_little_memory_and_no_time_to_stop(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "in.jsonl.gz", "wb", compresslevel=1) as file:
        file.write(b'{"id": "a", "image": "a.png", "question": "?"}\n')
        for _ in range(1000):
            file.write(b"x" * 2**20)
    count = RowCount(detect_source([str(tmp_path / "in.jsonl.gz")]))
    before = resident_bytes()
    count.start()
    time.sleep(0.5)
    assert not count.is_over
    assert resident_bytes() < before + 100 * 2**20
    asked = time.monotonic()
    count.stop()
    assert time.monotonic() - asked < 5


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_the_end_does_not_wait_for_a_disk_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = threading.Event()
    (tmp_path / "photos").mkdir()
    monkeypatch.setattr("producer.inputs.count.image_paths", lambda input: iter([hangs.wait(60)]))
    count = RowCount(detect_source([str(tmp_path / "photos")], questions=["?"]))
    count.start()
    asked = time.monotonic()
    count.stop()
    hangs.set()
    assert time.monotonic() - asked < 20


def counted(count: RowCount) -> int | None:
    count.start()
    wait_until(lambda: count.is_over, "the count")
    return count.rows
