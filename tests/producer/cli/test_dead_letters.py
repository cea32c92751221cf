"""`vqa dlq` as a user runs it."""

import json
import os
import pty
import subprocess

import pytest
from redis import Redis

from producer import Client, Job
from tests.producer.conftest import COMMAND, MakeJob, PlayedWorker, Vqa
from vqa.ledger.ledger import Ledger, Limits


@pytest.fixture
def letters(client: Client, worker: PlayedWorker, question: MakeJob, png: bytes, redis: Redis) -> None:
    """Three dead letters, the oldest first: `lost`, `used` with an image, and `m1`, which is no job."""
    client.submit(question(id="lost"))
    worker.give_up("lost", "worker_lost", "WorkerLost: its lease ran out")
    client.submit(Job.about(png, "What is\n\x1b[31mthis?", id="used", lane="bulk", metadata={"of": "café"}))
    worker.give_up("used")
    worker.ledger.dead_letter_message("m1", "bulk", b"\x80no \x1b[31mjob", "malformed: not JSON")
    seconds, _ = redis.time()
    redis.zadd("vqa:dead", {id: (seconds - 3 + number) * 1000 for number, id in enumerate(["lost", "used", "m1"])})


def test_list_shows_the_newest_first(vqa: Vqa, letters: None) -> None:
    listed = vqa("dlq", "list")
    assert (listed.returncode, listed.stderr) == (0, "")
    head, *rows = [line.split() for line in listed.stdout.splitlines()]
    assert head[:3] == ["ID", "REASON", "LANE"]
    assert [row[0] for row in rows] == ["m1", "used", "lost"]
    assert "WorkerLost: its lease ran out" in listed.stdout


def test_list_chooses_and_says_when_there_are_more(vqa: Vqa, letters: None) -> None:
    chosen = vqa("dlq", "list", "--reason", "worker_lost", "--since", "1h", "--json")
    [letter] = map(json.loads, chosen.stdout.splitlines())
    assert (letter["id"], letter["lane"], letter["attempts"]) == ("lost", "interactive", 1)
    assert vqa("dlq", "list", "--before", "1h").stdout == "no dead letters\n"
    assert vqa("dlq", "list", "--before", "1h", "--json").stdout == ""
    few = vqa("dlq", "list", "--limit", "2")
    assert len(few.stdout.splitlines()) == 3
    assert few.stderr == "vqa: there are more; use --limit 20\n"
    assert vqa("dlq", "list", "--since", "gestern").returncode == 2


def test_list_is_loud_when_no_more_are_kept(vqa: Vqa, letters: None) -> None:
    listed = vqa("dlq", "list", env={"VQA_DEAD_MOST": "3"})
    assert listed.returncode == 0
    assert "VQA_DEAD_MOST" in listed.stderr
    assert listed.stderr.count("\n") == 1


def test_show_tells_all_of_a_job(vqa: Vqa, letters: None, png: bytes, redis: Redis) -> None:
    shown = vqa("dlq", "show", "used")
    assert shown.returncode == 0
    for said in (
        "attempts_used_up",
        "played@here",
        "EngineError: once more",
        '"of": "café"',
        f"{len(png):,} bytes",
    ):
        assert said in shown.stdout
    # a user's words cannot speak to the terminal
    assert "\n  \\x1b[31mthis?" in shown.stdout
    assert "\x1b" not in shown.stdout
    [key] = redis.keys("vqa:image:*")
    redis.delete(key)
    assert "no longer stored" in vqa("dlq", "show", "used").stdout
    told = json.loads(vqa("dlq", "show", "used", "--json").stdout)
    assert told["job"]["messages"][0]["content"][1]["text"] == "What is\n\x1b[31mthis?"
    assert list(told["images"].values()) == [None]
    assert [past["worker"] for past in told["attempts"]] == ["played@here"]


def test_show_tells_what_was_no_job(vqa: Vqa, letters: None) -> None:
    shown = vqa("dlq", "show", "m1")
    assert shown.stdout.endswith("not a job: 12 bytes:\n  \\x80no \\x1b[31mjob\n")
    assert json.loads(vqa("dlq", "show", "m1", "--json").stdout)["raw"] == "\\x80no \x1b[31mjob"
    missing = vqa("dlq", "show", "nobody's")
    assert (missing.returncode, missing.stdout) == (3, "")
    assert missing.stderr == "vqa: nobody's is not a dead letter\n"


def test_retry_says_of_each_what_became_of_it(vqa: Vqa, letters: None, client: Client, redis: Redis) -> None:
    retried = vqa("dlq", "retry", "lost", "m1", "nobody's")
    assert retried.returncode == 3
    assert retried.stdout == "lost reopened\nm1 is not a job and cannot be retried\nnobody's is not a dead letter\n"
    assert vqa("dlq", "retry", "lost").stdout == "lost is open already\n"
    chosen = vqa("dlq", "retry", "--reason", "attempts_used_up", "--since", "1h")
    assert (chosen.returncode, chosen.stdout) == (0, "1 reopened\n")
    every = vqa("dlq", "retry", "--all")
    assert (every.returncode, every.stdout) == (3, "1 is not a job and cannot be retried\n")
    assert {state.state for state in client.states(["lost", "used"]).values()} == {"queued"}
    assert redis.llen("bulk") == 2


def test_retry_and_purge_want_to_know_which(vqa: Vqa, letters: None, client: Client) -> None:
    assert vqa("dlq", "retry").returncode == 2
    assert vqa("dlq", "retry", "lost", "--all").returncode == 2
    assert vqa("dlq", "purge", "lost", "--since", "1h").returncode == 2
    assert client.dead_letters.count() == 3


def test_purge_drops_those_chosen(vqa: Vqa, letters: None, client: Client) -> None:
    assert vqa("dlq", "purge", "--reason", "malformed").stdout == "1 deleted\n"
    named = vqa("dlq", "purge", "lost", "nobody's")
    assert (named.returncode, named.stdout) == (3, "1 deleted\n")
    assert vqa("dlq", "purge", "--before", "1h").stdout == "0 deleted\n"
    assert [letter.id for letter in client.dead_letters.list()] == ["used"]
    assert vqa("dlq", "purge", "--yes").stdout == "1 deleted\n"


@pytest.mark.parametrize(("typed", "left"), [(b"n\n", 3), (b"y\n", 0)])
def test_purge_asks_at_a_terminal(
    environment: dict[str, str], letters: None, client: Client, typed: bytes, left: int
) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "dlq", "purge"], env=environment, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    os.close(theirs)
    os.write(ours, typed)
    said, _ = process.communicate(timeout=60)
    os.close(ours)
    assert b"Delete 3 dead letters?" in said
    assert client.dead_letters.count() == left


def test_the_oldest_have_gone_when_there_are_too_many(redis: Redis, vqa: Vqa) -> None:
    ledger = Ledger(redis, Limits(dead=2))
    for number in range(3):
        ledger.dead_letter_message(f"m{number}", "bulk", b"no job", "malformed: not JSON")
    assert [line.split()[0] for line in vqa("dlq", "list").stdout.splitlines()[1:]] == ["m2", "m1"]
