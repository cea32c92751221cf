"""The `vqa` command as a user runs it: output, one-line errors, exit statuses."""

import contextlib
import json
import os
import pty
import re
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from producer import Job, PromptTooLong
from producer.demo.redis_server import free_port
from tests.producer.conftest import COMMAND, PlayedWorker, Vqa, echo
from vqa.answer import SeenImage, TokenLogprob
from vqa.settings import NAMES


@pytest.fixture
def questions(tmp_path: Path, png: bytes) -> Path:
    (tmp_path / "teal.png").write_bytes(png)
    rows = [{"id": f"q{number}", "image": "teal.png", "question": f"Question {number}?"} for number in range(3)]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def rows(text: str) -> dict[str | None, Any]:
    return {row["id"]: row for row in map(json.loads, text.splitlines())}


def test_ask_prints_the_answer(vqa: Vqa, echoing: None, questions: Path) -> None:
    asked = vqa("ask", questions.parent / "teal.png", "What colour?")
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, "What colour?\n", "")


def test_a_image_may_come_from_stdin(vqa: Vqa, echoing: None, questions: Path) -> None:
    with (questions.parent / "teal.png").open() as png:
        piped = vqa("ask", "-", "From stdin?", "--json", "--max-new-tokens", "4", stdin=png)
    assert json.loads(piped.stdout)["text"] == "From stdin?"


def test_frames_that_the_model_did_not_see_are_told(vqa: Vqa, answering: Callable[..., None], questions: Path) -> None:
    seen = SeenImage(source_width=40, source_height=30, frames=3)
    answering(lambda job, lease: echo(job, lease).model_copy(update={"images": (seen,)}))
    asked = vqa("ask", questions.parent / "teal.png", "What colour?")
    assert (asked.returncode, asked.stdout) == (0, "What colour?\n")
    assert re.fullmatch(r"vqa: .*teal\.png: the model saw the first of 3 frames; --video shows more\n", asked.stderr)


def test_a_reader_that_leaves_is_no_traceback(environment: dict[str, str], echoing: None, questions: Path) -> None:
    command = " ".join(COMMAND) + f" submit {questions} | true"
    gone = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, env=environment)
    assert gone.stderr == ""


@pytest.mark.parametrize(
    ("image", "status", "said"),
    [("teal.png", 1, "vqa: PromptTooLong: too long\n"), ("missing.png", 1, "vqa: BadImage: cannot read the image")],
)
def test_a_failure_is_one_line(
    vqa: Vqa, answering: Callable[..., None], questions: Path, image: str, status: int, said: str
) -> None:
    answering(lambda job, lease: PromptTooLong("too long"))
    asked = vqa("ask", questions.parent / image, "What?")
    assert (asked.returncode, asked.stdout) == (status, "")
    assert asked.stderr.startswith(said)
    assert asked.stderr.count("\n") == 1


def test_submit_writes_every_answer_and_tells_bad_lines(
    vqa: Vqa, answering: Callable[..., None], questions: Path
) -> None:
    answering(lambda job, lease: PromptTooLong("too long") if "1?" in job.to_json().decode() else echo(job, lease))
    with questions.open("a") as file:
        file.write("no job\n")
    out = questions.parent / "answers.jsonl"
    submitted = vqa("submit", questions, "-o", out)
    assert submitted.returncode == 3
    assert submitted.stderr.splitlines()[0] == "vqa: line 4: InvalidJob: not JSON"
    written = rows(out.read_text())
    assert {id: row.get("answer") for id, row in written.items()} == {
        "q0": "Question 0?",
        "q1": None,
        "q2": "Question 2?",
        None: None,
    }
    assert written["q1"]["error"] == {"code": "prompt_too_long", "message": "too long"}
    assert written[None]["error"]["message"] == "line 4: not JSON"


def test_jobs_of_a_file_go_to_the_bulk_lane_unless_told_otherwise(
    vqa: Vqa, answering: Callable[..., None], questions: Path
) -> None:
    lanes: set[str] = set()

    def note(job: Job, lease: Any) -> Any:
        lanes.add(lease.header.lane)
        return echo(job, lease)

    answering(note)
    assert vqa("submit", questions).returncode == 0
    assert lanes == {"bulk"}


@pytest.mark.parametrize("command", ["ask", "submit"])
def test_how_to_draw_is_told_to_the_worker(
    vqa: Vqa, answering: Callable[..., None], questions: Path, command: str
) -> None:
    drawn: set[tuple[float, float, int | None]] = set()

    def note(job: Job, lease: Any) -> Any:
        drawn.add((job.temperature, job.top_p, job.seed))
        return echo(job, lease)

    answering(note)
    what = [questions] if command == "submit" else [questions.parent / "teal.png", "What?"]
    assert vqa(command, *what, "--temperature", "0.7", "--top-p", "0.9", "--seed", str(2**63 - 1)).returncode == 0
    assert drawn == {(0.7, 0.9, 2**63 - 1)}


@pytest.mark.parametrize("command", ["ask", "submit"])
def test_what_is_likely_is_told_to_the_worker_and_log_probabilities_come_back(
    vqa: Vqa, answering: Callable[..., None], questions: Path, command: str
) -> None:
    told = {
        **{"top_k": 40, "min_p": 0.1, "presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.1},
        **{"logprobs": True, "top_logprobs": 2, "max_reasoning_tokens": 100},
    }
    jobs: list[dict[str, Any]] = []
    token = {"token": "a", "logprob": -0.5, "bytes": [97]}

    def note(job: Job, lease: Any) -> Any:
        jobs.append(job.model_dump())
        logprobs = (TokenLogprob.model_validate({**token, "top_logprobs": [token]}),)
        return echo(job, lease).model_copy(update={"logprobs": logprobs})

    answering(note)
    what = [questions] if command == "submit" else [questions.parent / "teal.png", "What?", "--json"]
    options = [f"--{name.replace('_', '-')}={value}" for name, value in told.items() if name != "logprobs"]
    done = vqa(command, *what, "--logprobs", *options)
    assert done.returncode == 0
    assert all({name: job[name] for name in told} == told for job in jobs)
    for line in done.stdout.splitlines():
        assert json.loads(line)["logprobs"] == [{**token, "top_logprobs": [token]}]


def test_log_probabilities_have_no_place_beside_a_text(vqa: Vqa, questions: Path) -> None:
    refused = vqa("ask", questions.parent / "teal.png", "What?", "--logprobs")
    assert refused.returncode == 2
    assert "--json" in refused.stderr


@pytest.mark.parametrize("wrong", [("--top-p", "0"), ("--top-p", "1.5"), ("--seed", "-1"), ("--seed", str(2**63))])
def test_an_impossible_draw_is_a_mistake_in_the_command(vqa: Vqa, questions: Path, wrong: tuple[str, str]) -> None:
    refused = vqa("submit", questions, *wrong)
    assert refused.returncode == 2
    assert wrong[0] in refused.stderr


def test_answers_are_collected_by_id(vqa: Vqa, echoing: None, client: Any, question: Any, tmp_path: Path) -> None:
    for number in range(3):
        client.submit(question(f"Question {number}?", id=f"q{number}"))
    out = tmp_path / "answers.jsonl"
    collected = vqa("collect", "q0", "q1", "q2", "nobody's", "-o", out)
    assert (collected.returncode, collected.stderr) == (3, "3 answered, 1 failed\n")
    found = rows(out.read_text())
    assert [found[f"q{number}"]["answer"] for number in range(3)] == [f"Question {number}?" for number in range(3)]
    assert found["nobody's"]["error"]["code"] == "unknown_job"
    assert rows(vqa("collect", "q1").stdout)["q1"]["answer"] == "Question 1?"


def test_sigterm_ends_with_a_temporary_failure(environment: dict[str, str], questions: Path, redis: Redis) -> None:
    process = subprocess.Popen([*COMMAND, "submit", str(questions)], env=environment, stderr=subprocess.PIPE)
    until = time.monotonic() + 30
    while redis.llen("bulk") < 3:
        assert time.monotonic() < until
        time.sleep(0.02)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 75


def test_status_shows_jobs_and_the_queue(
    vqa: Vqa, worker: PlayedWorker, client: Any, question: Any, redis: Redis
) -> None:
    client.submit(question(id="q1"))
    worker.ledger.renew("card0@here", [], 9, {"slots": 4})
    assert [line.split()[:2] for line in vqa("status", "q1", "q2").stdout.splitlines()] == [
        ["ID", "STATE"],
        ["q1", "queued"],
        ["q2", "unknown"],
    ]
    worker.ledger.renew("card0@here", [], 9, {"slots": 4})
    told = json.loads(vqa("status", "--json").stdout)
    assert told["lanes"]["interactive"] == {"waiting": 0, "queued": 1, "leased": 0, "delayed": 0}
    assert told["workers"] == {"card0@here": {"slots": 4}}
    assert told["inbox"] == 0
    worker.ledger.renew("card0@here", [], 9, {"slots": 4})
    redis.xadd("vqa:inbox", {"job": "{}"})
    shown = vqa("status").stdout
    assert "card0@here  slots=4" in shown
    assert "entries in the inbox that are no jobs yet: 1" in shown


def test_cancel_tells_what_was_not_open(vqa: Vqa, client: Any, question: Any) -> None:
    client.submit(question(id="q1"))
    cancelled = vqa("cancel", "q1", "q2")
    assert cancelled.stdout == "q1 cancelled\nq2 was not open\n"
    assert cancelled.returncode == 3


def test_a_lost_redis_is_a_temporary_failure(vqa: Vqa) -> None:
    lost = vqa("status", env={"VQA_REDIS_URL": f"redis://:secret@127.0.0.1:{free_port()}/0"})
    assert lost.returncode == 75
    assert lost.stderr.startswith("vqa: QueueUnavailable: Redis at 127.0.0.1:")
    assert lost.stderr.count("\n") == 1
    assert "secret" not in lost.stderr


def test_questions_may_come_from_stdin(vqa: Vqa, echoing: None, questions: Path) -> None:
    row = {"id": "piped", "image": str(questions.parent / "teal.png"), "question": "From stdin?"}
    lines = questions.parent / "piped.jsonl"
    lines.write_text(json.dumps(row) + "\n")
    with lines.open() as file:
        piped = vqa("submit", "-", stdin=file)
    assert rows(piped.stdout)["piped"]["answer"] == "From stdin?"


def test_a_file_of_questions_is_no_id(vqa: Vqa, questions: Path) -> None:
    before = questions.read_text()
    refused = vqa("collect", questions, "-o", questions)
    assert refused.returncode == 2
    assert "repeat its `vqa submit` command" in refused.stderr
    assert questions.read_text() == before


def test_wrong_usage_ends_with_2(vqa: Vqa) -> None:
    assert vqa("ask", "--no-such-option").returncode == 2
    assert vqa("submit", "no-such-file.jsonl").returncode == 2
    assert vqa("no-such-command").returncode == 2
    wrong = vqa("status", env={"VQA_REDIS_ULR": "redis://127.0.0.1"})
    assert wrong.returncode == 2
    assert "did you mean VQA_REDIS_URL?" in wrong.stderr


def test_schema_and_settings_are_documents(vqa: Vqa) -> None:
    schemas = json.loads(vqa("schema").stdout)
    assert {"messages", "lane", "max_new_tokens"} <= schemas["job"]["properties"].keys()
    assert {"text", "usage"} <= schemas["answer"]["properties"].keys()
    assert schemas["outcome"]["discriminator"]["propertyName"] == "status"
    # the place that an error about a variable sends one to must not fail by that variable
    settings = json.loads(vqa("settings", "--json", env={"VQA_NO_SUCH": "1"}).stdout)
    assert settings.keys() == NAMES
    assert settings["VQA_LEASE_S"]["default"] == "9"


@pytest.mark.parametrize(
    "command",
    [
        "ask",
        "submit",
        "collect",
        "batches",
        "status",
        "cancel",
        "doctor",
        "schema",
        "settings",
        "demo",
        "worker",
        "tune",
    ]
    + [f"dlq {command}" for command in ("list", "show", "retry", "purge")],
)
def test_every_command_has_a_help_with_an_example(vqa: Vqa, command: str) -> None:
    told = vqa(*command.split(), "-h")
    assert told.returncode == 0
    assert "Example: " in told.stdout
    if not command.startswith("dlq"):
        assert f"\n  {command} " in vqa("-h").stdout


def test_without_arguments_it_shows_what_a_beginner_needs(vqa: Vqa) -> None:
    told = vqa()
    assert (told.returncode, told.stderr) == (0, "")
    for command in ("ask", "submit", "status", "worker", "demo"):
        assert f"\n  vqa {command}" in told.stdout
    assert "`vqa --help` lists all commands" in told.stdout


def test_the_version_is_printed(vqa: Vqa) -> None:
    assert vqa("--version").stdout == f"vqa {version('vqa-queue')}\n"


def test_a_shell_can_complete_commands(vqa: Vqa) -> None:
    # a process of its own: the shell is looked for among its parents
    own = {"stdin": subprocess.DEVNULL}
    assert "_VQA_COMPLETE=complete_bash" in vqa("--show-completion", "bash", **own).stdout.replace(" ", "")
    completed = vqa(env={"_VQA_COMPLETE": "complete_bash", "COMP_WORDS": "vqa sta", "COMP_CWORD": "1"}, **own)
    assert completed.stdout.split() == ["status"]


def test_redis_may_be_named_before_or_after_the_command(
    vqa: Vqa, redis_url: str, echoing: None, questions: Path
) -> None:
    elsewhere = {"VQA_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    assert "LANE" in vqa("--redis-url", redis_url, "status", env=elsewhere).stdout
    image = questions.parent / "teal.png"
    assert vqa("ask", image, "What?", "--redis-url", redis_url, env=elsewhere).stdout == "What?\n"
    assert vqa("dlq", "list", "--redis-url", redis_url, env=elsewhere).stdout == "no dead letters\n"


def test_a_quiet_watch_shows_how_a_batch_ended(vqa: Vqa, client: Any, question: Any) -> None:
    batch = client.batches.create([question(id="q1")])
    assert client.batches.cancel(batch.id) == 1
    watched = vqa("status", batch.id, "--watch", "--quiet")
    assert watched.returncode == 3
    assert watched.stdout.startswith(f"{batch.id}  cancelled\n1 of 1 rows done, 1 failed")
    assert len(vqa("status", batch.id, "--watch").stdout.splitlines()) == 1


def test_no_colour_is_printed_to_a_terminal_that_wants_none(
    environment: dict[str, str], client: Any, question: Any
) -> None:
    batch = client.batches.create([question(id="q1")])
    client.batches.cancel(batch.id)
    for arguments in (["status", batch.id, "--watch"], ["--help"], ["status", "--no-such-option"]):
        ours, theirs = pty.openpty()
        environment = environment | {"NO_COLOR": "1", "TERM": "xterm-256color"}
        command = subprocess.Popen([*COMMAND, *arguments], env=environment, stdout=theirs, stderr=theirs)
        os.close(theirs)
        said = b""
        # reading fails once the other side is closed
        with contextlib.suppress(OSError):
            while read := os.read(ours, 65536):
                said += read
        command.wait(timeout=60)
        os.close(ours)
        assert said
        assert not re.search(rb"\x1b\[[0-9;]*[349][0-8]", said)


def test_worker_hands_everything_to_the_workers(vqa: Vqa) -> None:
    told = vqa("worker", "--help")
    assert told.returncode == 0
    assert "--slots" in told.stdout
