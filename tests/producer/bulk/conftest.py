"""Submissions as a user makes them: a file of rows, the command, real workers that echo."""

import json
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from producer.bulk.output.codec import codec_for
from tests.producer.conftest import COMMAND, echo
from vqa.jobs.job import Job
from vqa.ledger.records import Lease
from vqa.results import Outcome

Submit = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]


def chat(custom_id: str, question: str, **body: Any) -> dict[str, Any]:
    """A row of OpenAI's batch form."""
    messages = [{"role": "user", "content": question}]
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"messages": messages, **body},
    }


def chats(count: int) -> list[dict[str, Any]]:
    return [chat(f"row-{number}", f"Question {number}?") for number in range(count)]


def write(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    """What a file of lines holds, however it is packed."""
    if not path.exists():
        return []
    with codec_for(path).open(path) as file:
        return [json.loads(line) for line in file]


def answers(path: Path) -> dict[str, str]:
    """The text of each custom_id, which must be there once."""
    found = lines(path)
    texts = {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"] for line in found}
    assert len(texts) == len(found)
    return texts


def codes(path: Path) -> dict[str | None, str]:
    """The code of each custom_id, which must be there once."""
    found = lines(path)
    told = {line["custom_id"]: line["error"]["code"] for line in found}
    assert len(told) == len(found)
    return told


class Journal:
    """What the echo engine ran."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def runs(self) -> int:
        """How many prompts entered a slot."""
        if not self.path.exists():
            return 0
        return sum(json.loads(line)["event"] == "start" for line in self.path.read_text().splitlines())


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


@pytest.fixture
def echoes(start_worker: Callable[..., Any], journal: Journal) -> Callable[..., Any]:
    """Start a real worker with the echo engine, its runs in the journal."""

    def start(**variables: str) -> Any:
        return start_worker("echo", VQA_SLOTS="4", VQA_ECHO_JOURNAL=str(journal.path), **variables)

    return start


@pytest.fixture
def plays(answering: Callable[..., None], journal: Journal) -> Callable[[], None]:
    """Start a worker in this process, its runs in the journal: a real one takes three seconds of processor time."""

    def noted(job: Job, lease: Lease) -> Outcome:
        with journal.path.open("a") as file:
            file.write('{"event": "start"}\n')
        return echo(job, lease)

    return lambda: answering(noted)


@pytest.fixture
def submit(
    environment: dict[str, str], tmp_path: Path, run_here: Callable[..., subprocess.CompletedProcess[str]]
) -> Submit:
    """`vqa submit` to its end, in a new process where it is given `options`."""

    def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        words = ["submit", *map(str, arguments)]
        if not options:
            return run_here(words, tmp_path)
        return subprocess.run(
            [*COMMAND, *words], capture_output=True, text=True, timeout=100, env=environment, cwd=tmp_path, **options
        )

    return run


@pytest.fixture
def start_submit(environment: dict[str, str], tmp_path: Path) -> Start:
    """`vqa submit` while it runs; the caller ends it."""

    def start(*arguments: object, stdin: int | None = None) -> subprocess.Popen[str]:
        command = [*COMMAND, "submit", *map(str, arguments)]
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=tmp_path,
        )

    return start
