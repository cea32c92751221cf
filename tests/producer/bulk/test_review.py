"""`--review-below`: doubtful answers are copied to a file for people. To the worker, all choices are as probable."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from producer.bulk.output.review import Shown, is_doubtful, parse_review
from producer.inputs import Row
from tests.producer.bulk.conftest import Submit, chat, lines, write
from tests.producer.conftest import answer
from vqa.images.store import reference
from vqa.jobs.job import Job
from vqa.ledger.records import Lease
from vqa.results import Outcome

SCORED = {"type": "choice", "choices": ["yes", "no"], "probabilities": True}
SURE = {"type": "choice", "choices": ["yes"], "probabilities": True}
BELOW = ("--review-below", "0.8", "--review", "review.jsonl")


def ids(path: Path) -> list[str]:
    return sorted(line["id"] for line in lines(path))


@pytest.fixture
def runs(answering: Callable[..., None]) -> list[str]:
    """A worker that answers with the first choice; the questions that it was asked."""
    asked: list[str] = []

    def judge(job: Job, lease: Lease) -> Outcome:
        asked.append(job.messages[-1].content[-1].text)
        choices = job.scored_choices
        return answer(job.id, choices[0]).model_copy(update={"choices": dict.fromkeys(choices, 1 / len(choices))})

    answering(judge)
    return asked


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Five of two choices, and five of one."""
    formats = [SCORED if number % 2 else SURE for number in range(10)]
    return write(
        tmp_path / "in.jsonl", [chat(f"r{n}", f"Q{n}?", response_format=each) for n, each in enumerate(formats)]
    )


def test_doubtful_answers_are_copied_with_what_people_need(
    submit: Submit, tmp_path: Path, png: bytes, runs: list[str]
) -> None:
    (tmp_path / "a.png").write_bytes(png)
    ended = submit(tmp_path, "--question", "Is it red?", "--choice", "yes", "--choice", "no", "-o", "out.jsonl", *BELOW)
    assert ended.returncode == 0, ended.stderr
    [answered], [copied] = lines(tmp_path / "out.jsonl"), lines(tmp_path / "review.jsonl")
    assert answered["response"]["body"]["vqa"]["choices"] == {"yes": 0.5, "no": 0.5}
    text = answered["response"]["body"]["choices"][0]["message"]["content"]
    assert copied == {
        "id": "a.png",
        "images": [str(tmp_path / "a.png")],
        "question": "Is it red?",
        "answer": text,
        "probability": 0.5,
        "choices": {"yes": 0.5, "no": 0.5},
        "job": answered["id"],
    }
    assert "1 answers to review (below 0.8): review.jsonl" in ended.stderr


@pytest.mark.parametrize("review", ["review.jsonl", "review.jsonl.gz"])
def test_only_doubtful_answers_are_copied(
    submit: Submit, tmp_path: Path, rows: Path, runs: list[str], review: str
) -> None:
    ended = submit(rows, "-o", "out.jsonl", "--review-below", "0.8", "--review", review)
    assert ended.returncode == 0, ended.stderr
    assert len(lines(tmp_path / "out.jsonl")) == 10
    assert ids(tmp_path / review) == [f"r{number}" for number in range(1, 10, 2)]


def test_the_same_command_again_copies_nothing_twice(
    submit: Submit, tmp_path: Path, rows: Path, runs: list[str]
) -> None:
    submit(rows, "-o", "out.jsonl", *BELOW)
    before, asked = (tmp_path / "review.jsonl").read_bytes(), len(runs)
    ended = submit(rows, "-o", "out.jsonl", *BELOW)
    assert (ended.returncode, len(runs)) == (0, asked)
    assert (tmp_path / "review.jsonl").read_bytes() == before
    assert "5 answers to review" in ended.stderr


def test_a_copy_whose_answer_was_lost_is_written_again(
    submit: Submit, tmp_path: Path, rows: Path, runs: list[str]
) -> None:
    submit(rows, "-o", "out.jsonl", *BELOW)
    out, review = tmp_path / "out.jsonl", tmp_path / "review.jsonl"
    # as a kill leaves them between the two writes
    out.write_text("".join(out.read_text().splitlines(keepends=True)[:3]) + '{"id": "torn')
    with review.open("a") as file:
        file.write('{"id": "torn')
    ended = submit(rows, "-o", "out.jsonl", *BELOW)
    assert ended.returncode == 0, ended.stderr
    assert len(lines(out)) == 10
    assert ids(review) == [f"r{number}" for number in range(1, 10, 2)]


def test_a_changed_row_replaces_its_copy(submit: Submit, tmp_path: Path, rows: Path, runs: list[str]) -> None:
    submit(rows, "-o", "out.jsonl", *BELOW)
    changed = lines(rows)
    changed[1] = chat("r1", "Q one?", response_format=SCORED)
    # and one that is sure now has none any more
    changed[3]["body"]["response_format"] = SURE
    write(rows, changed)
    ended = submit(rows, "-o", "out.jsonl", *BELOW)
    assert ended.returncode == 0, ended.stderr
    found = lines(tmp_path / "review.jsonl")
    assert sorted((line["id"], line["question"]) for line in found) == [
        ("r1", "Q one?"),
        *((f"r{number}", f"Q{number}?") for number in (5, 7, 9)),
    ]


def test_runs_of_one_batch_review_alike(submit: Submit, tmp_path: Path, rows: Path, runs: list[str]) -> None:
    submit(rows, "-o", "out.jsonl", *BELOW)
    stricter = ("--review-below", "0.4", "--review", "review.jsonl")
    for other in (stricter, ("--review-below", "0.8", "--review", "other.jsonl"), ()):
        ended = submit(rows, "-o", "out.jsonl", *other)
        assert ended.returncode == 2
        assert "earlier runs had --review review.jsonl --review-below 0.8; pass the same" in ended.stderr
    assert submit(rows, "-o", "out.jsonl", *stricter, "--restart").returncode == 0
    assert ids(tmp_path / "review.jsonl") == []


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--review-below", "0.8"), "needs --review"),
        (("--review", "r.jsonl"), "needs --review-below"),
        (("--probabilities",), "needs --choice"),
        (BELOW, "needs the probabilities of choices; give --choice"),
        ((*BELOW, "--schema", "schema.json"), "needs the probabilities of choices; give --choice"),
        ((*BELOW, "--choice", "yes", "--detach"), "--detach does not wait"),
        (("--choice", "a", "-o", "o.jsonl", "--review-below", "0.8", "--review", "o.jsonl"), "another output"),
        (("--choice", "a", "-o", "o.jsonl", "--review-below", "0.8", "--review", "o.jsonl.batch"), "another output"),
        (("--choice", "a", "-o", "o.jsonl", "--review-below", "0.8", "--review", "a.png"), "is an input"),
        (
            ("--choice", "a", "-o", "o.jsonl", "--review-below", "0.8", "--review", "no/r.jsonl"),
            "there is no folder no",
        ),
        (("--choice", "a", "--errors", "e.jsonl", "--review-below", "0.8", "--review", "e.jsonl"), "another output"),
    ],
    ids=[
        "no-file",
        "no-limit",
        "no-choice",
        "no-format",
        "schema",
        "detached",
        "out",
        "sidecar",
        "input",
        "no-folder",
        "errors",
    ],
)
def test_what_cannot_be_reviewed_is_refused(
    submit: Submit, tmp_path: Path, png: bytes, redis: Any, arguments: tuple[str, ...], why: str
) -> None:
    (tmp_path / "a.png").write_bytes(png)
    write(tmp_path / "schema.json", [{"type": "object"}])
    ended = submit("a.png", "--question", "Is it red?", *arguments)
    assert ended.returncode == 2, ended.stderr
    assert why in " ".join(ended.stderr.replace("│", " ").split())
    assert (tmp_path / "a.png").read_bytes() == png


def test_a_row_without_probabilities_fails_alone(submit: Submit, tmp_path: Path, runs: list[str]) -> None:
    plain = {"type": "choice", "choices": ["yes", "no"]}
    given = [chat("a", "A?", response_format=SCORED), chat("b", "B?", response_format=plain), chat("c", "C?")]
    rows = write(tmp_path / "in.jsonl", given)
    strict: subprocess.CompletedProcess[str] = submit(rows, "-o", "out.jsonl", *BELOW, "--strict")
    assert (strict.returncode, lines(tmp_path / "out.jsonl")) == (2, [])
    ended = submit(rows, "-o", "out.jsonl", *BELOW)
    assert ended.returncode == 3, ended.stderr
    assert ids(tmp_path / "review.jsonl") == ["a"]
    failed = {line["custom_id"]: line["error"]["message"] for line in lines(tmp_path / "out.errors.jsonl")}
    assert failed == dict.fromkeys("bc", "response_format: --review-below needs choices with probabilities")


def test_what_a_row_shows_is_told_without_its_images_bytes(png: bytes) -> None:
    inline = "data:image/png;base64," + base64.b64encode(png).decode()
    shown = [{"type": "image", "image": source} for source in ("file:/a b.png", inline, "https://a.example/b.png")]
    said = [{"type": "text", "text": text} for text in ("Is it", "red?")]
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [*shown, *said]},
        {"role": "assistant", "content": [{"type": "text", "text": "It is "}]},
    ]
    row = Row(1, "r1", {"messages": messages})
    found = Shown.from_row(row, {inline: reference(png), "file:/a b.png": "sha256:1"})
    assert found == Shown("Is it\nred?", ("/a b.png", reference(png), "https://a.example/b.png"))


@pytest.mark.parametrize(
    ("choices", "doubtful"),
    [({"a": 0.79, "b": 0.21}, True), ({"a": 0.8, "b": 0.2}, False), (None, False)],
    ids=["below", "at", "unknown"],
)
def test_an_answer_is_doubtful_below_the_limit(choices: dict[str, float] | None, doubtful: bool) -> None:
    assert is_doubtful(answer("a", "a").model_copy(update={"choices": choices}), 0.8) == doubtful


@pytest.mark.parametrize("line", [b"", b"[]", b"{", b'{"id": "a"}', b'{"id": "a", "job": 1, "choices": {}}'], ids=str)
def test_other_lines_are_none_of_a_review(line: bytes) -> None:
    assert parse_review(line) is None
