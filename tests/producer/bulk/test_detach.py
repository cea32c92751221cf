"""Batches from the command line that nobody waits for: submitted, watched, collected elsewhere, cancelled."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from redis import Redis

from producer import Client
from producer.client.batches import new_id
from tests.producer.bulk.conftest import Submit, answers, chat, chats, codes, lines, write
from tests.producer.conftest import COMMAND
from vqa.ledger.batches import Batches

Echoes = Callable[..., Any]
Vqa = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def vqa(environment: dict[str, str], tmp_path: Path, run_here: Callable[..., subprocess.CompletedProcess[str]]) -> Vqa:
    """Any command of `vqa` to its end, in a new process where it writes to /dev/stdout."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        if "/dev/stdout" not in arguments:
            return run_here([*arguments], tmp_path)
        return subprocess.run(
            [*COMMAND, *arguments], capture_output=True, text=True, timeout=100, env=environment, cwd=tmp_path
        )

    return run


def test_a_batch_is_submitted_here_and_collected_there(
    submit: Submit, vqa: Vqa, echoes: Echoes, tmp_path: Path
) -> None:
    rows = write(tmp_path / "rows.jsonl", [*chats(40), "no row\n", chat("too-hot", "?", temperature=7)])
    sent = submit(rows, "--detach", "--tenant", "lab")
    assert sent.returncode == 3
    assert "line 41" in sent.stderr
    assert "40 rows are on the queue, 2 were not sent" in sent.stderr
    batch = sent.stdout.strip()
    echoes()

    watched = vqa("status", batch, "--watch")

    assert watched.returncode == 3
    assert watched.stdout.splitlines()[-1] == "42 of 42 rows done, 2 failed, 0 to go"
    assert vqa("collect", batch, "-o", "out.jsonl").returncode == 0
    assert answers(tmp_path / "out.jsonl").keys() == {f"row-{number}" for number in range(40)}
    assert vqa("collect", batch, "-o", "out.jsonl").returncode == 2
    assert len(answers(tmp_path / "out.jsonl")) == 40
    [listed] = [json.loads(line) for line in vqa("batches", "--json").stdout.splitlines()]
    assert (listed["id"], listed["status"], listed["total"], listed["tenant"]) == (batch, "completed", 42, "lab")
    assert listed["input"] == str(rows)


def test_strict_sends_nothing(submit: Submit, tmp_path: Path, client: Client) -> None:
    rows = write(tmp_path / "rows.jsonl", [*chats(5), "no row\n"])
    sent = submit(rows, "--detach", "--strict")
    assert (sent.returncode, sent.stdout) == (2, "")
    assert client.batches.list() == []
    assert sum(client.counts()["bulk"].values()) == 0


def test_a_cancelled_batch_is_collected_with_its_rows_as_cancelled(submit: Submit, vqa: Vqa, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", chats(200))
    batch = submit(rows, "--detach").stdout.strip()
    assert vqa("cancel", batch).stdout == f"{batch} cancelled\n"
    assert vqa("cancel", batch).returncode == 3

    collected = vqa("collect", batch, "-o", "out.jsonl")

    assert collected.returncode == 3
    assert codes(tmp_path / "out.errors.jsonl") == {f"row-{number}": "cancelled" for number in range(200)}


def test_what_is_collected_is_packed_by_its_name(submit: Submit, vqa: Vqa, echoes: Echoes, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", [*chats(20), chat("long", "?", metadata={"echo_fail": "PromptTooLong"})])
    batch = submit(rows, "--detach").stdout.strip()
    echoes()
    assert vqa("collect", batch, "-o", "out.jsonl.gz", "--errors", "bad.jsonl.zst").returncode == 3
    assert (tmp_path / "out.jsonl.gz").read_bytes()[:2] == b"\x1f\x8b"
    assert (tmp_path / "bad.jsonl.zst").read_bytes()[:4] == b"\x28\xb5\x2f\xfd"
    assert answers(tmp_path / "out.jsonl.gz").keys() == {f"row-{number}" for number in range(20)}
    # a member for each line would pack next to nothing
    packed = (tmp_path / "out.jsonl.gz").stat().st_size
    assert packed < sum(len(json.dumps(line)) for line in lines(tmp_path / "out.jsonl.gz")) / 2
    assert codes(tmp_path / "bad.jsonl.zst") == {"long": "prompt_too_long"}


def test_frames_that_nobody_asked_about_are_told_where_answers_are_collected(
    submit: Submit, vqa: Vqa, echoes: Echoes, tmp_path: Path
) -> None:
    first, second = (Image.new("RGB", (20, 20), colour) for colour in ("red", "blue"))
    (tmp_path / "both").mkdir()
    for name in ("clip.gif", "scan.tif"):
        first.save(tmp_path / "both" / name, save_all=True, append_images=[second])
    batch = submit("both", "--question", "?", "--detach").stdout.strip()
    echoes()
    collected = vqa("collect", batch, "-o", "out.jsonl")
    assert collected.returncode == 0
    assert collected.stderr.splitlines() == [
        # all pages of the scan are images
        "2 answered, 0 failed",
        "1 rows were asked about the first frame only: clip.gif",
    ]


def test_answers_are_written_through_a_link(
    submit: Submit, vqa: Vqa, plays: Callable[[], None], tmp_path: Path
) -> None:
    plays()
    batch = submit(write(tmp_path / "rows.jsonl", chats(2)), "--detach").stdout.strip()
    (tmp_path / "link.jsonl").symlink_to("elsewhere.jsonl")
    assert vqa("collect", batch, "-o", "link.jsonl").returncode == 0
    assert (tmp_path / "link.jsonl").is_symlink()
    assert len(answers(tmp_path / "elsewhere.jsonl")) == 2
    said = vqa("collect", batch, "-o", "/dev/stdout")
    assert len(said.stdout.splitlines()) == 2
    assert Path("/dev/stdout").is_symlink()


def test_a_batch_that_nobody_knows_leaves_no_file(vqa: Vqa, tmp_path: Path) -> None:
    assert vqa("collect", "batch_000000000000000000000000", "-o", "out.jsonl").returncode != 0
    assert list(tmp_path.glob("out*")) == []


def test_a_batch_whose_rows_are_still_being_added_is_not_collected_yet(vqa: Vqa, redis: Redis) -> None:
    batch = new_id()
    Batches(redis).create(batch, "bulk", detached=True)
    early = vqa("collect", batch, "-o", "out.jsonl", "--timeout", "0.2")
    assert early.returncode == 75
    assert "rows are still being added" in early.stderr


def test_what_has_not_ended_has_no_line(submit: Submit, vqa: Vqa, plays: Callable[[], None], tmp_path: Path) -> None:
    batch = submit(write(tmp_path / "rows.jsonl", chats(5)), "--detach").stdout.strip()
    early = vqa("collect", batch, "-o", "early.jsonl", "--timeout", "0.5")
    assert early.returncode == 75
    assert "5 jobs have not ended yet" in early.stderr
    assert answers(tmp_path / "early.jsonl") == {}
    assert codes(tmp_path / "early.errors.jsonl") == {}
    plays()
    assert vqa("collect", batch, "-o", "early.jsonl").returncode == 0
    assert len(answers(tmp_path / "early.jsonl")) == 5


def test_rows_that_the_batchs_end_overtook_have_expired(submit: Submit, vqa: Vqa, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", chats(5))
    batch = submit(rows, "--detach", "--within", "1").stdout.strip()

    collected = vqa("collect", batch, "-o", "out.jsonl")

    assert collected.returncode == 3
    assert set(codes(tmp_path / "out.errors.jsonl").values()) == {"batch_expired"}
    assert json.loads(vqa("status", batch, "--json").stdout)["status"] == "expired"


def test_quiet_leaves_only_the_batchs_id_and_what_failed(
    submit: Submit, vqa: Vqa, plays: Callable[[], None], tmp_path: Path
) -> None:
    sent = submit(write(tmp_path / "rows.jsonl", chats(2)), "--detach", "--quiet")
    assert (sent.returncode, sent.stderr) == (0, "")
    early = vqa("collect", sent.stdout.strip(), "--timeout", "0.2", "--quiet")
    assert (early.returncode, early.stdout) == (75, "")
    assert early.stderr == "vqa: 2 jobs have not ended yet; collect them later\n"
    plays()
    done = vqa("collect", sent.stdout.strip(), "-o", "out.jsonl", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_output_file_is_for_whoever_waits(submit: Submit, tmp_path: Path) -> None:
    refused = submit(write(tmp_path / "rows.jsonl", chats(1)), "--detach", "-o", "out.jsonl")
    assert refused.returncode == 2
    assert "vqa collect" in refused.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_a_batch_that_was_waited_for_is_in_its_file(
    submit: Submit, vqa: Vqa, plays: Callable[[], None], tmp_path: Path
) -> None:
    plays()
    submit(write(tmp_path / "rows.jsonl", chats(2)), "-o", "out.jsonl")
    batch = json.loads((tmp_path / "out.jsonl.batch").read_text())["batch"]
    assert "the `vqa submit` that sent it writes its answers" in vqa("collect", batch).stderr
