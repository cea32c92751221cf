"""Bulk files: good lines become jobs, bad ones are told, whatever stands in them."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producer import BadImage, InvalidJob, Job, PromptTooLong
from producer.batch import BadLine, Writer, open_lines, read_ids, read_jobs
from tests.producer.conftest import answer
from vqa.settings import QueueSettings

SETTINGS = QueueSettings(redis_url="redis://127.0.0.1:1/0")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["id", "image", "question", "lane", "stop", "self", "cls", "source", "version", "messages"])
rows = st.dictionaries(names | st.text(max_size=8), json_values, max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, picture: bytes) -> Path:
    folder = tmp_path_factory.mktemp("batch")
    (folder / "teal.png").write_bytes(picture)
    (folder / "text.png").write_text("no picture")
    return folder


def read(folder: Path, *lines: dict[str, Any] | str, **defaults: Any) -> list[Job | BadLine]:
    written = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    return list(read_jobs(written, folder, SETTINGS, **defaults))


def row(**fields: Any) -> dict[str, Any]:
    return {"id": "q1", "image": "teal.png", "question": "What colour is it?"} | fields


def test_a_line_becomes_a_job_with_its_picture(folder: Path, picture: bytes) -> None:
    [job] = read(folder, row(max_new_tokens=5, metadata={"set": "a"}, expected="teal"), lane="bulk", max_new_tokens=9)
    assert isinstance(job, Job)
    assert (job.id, job.lane, job.max_new_tokens, job.metadata) == ("q1", "bulk", 5, {"set": "a"})
    assert [part.image for part in job.images()] == [picture]


@pytest.mark.parametrize(
    ("line", "kind", "reason"),
    [
        ("{", InvalidJob, "not JSON"),
        ("[" * 100_000, InvalidJob, "not JSON"),
        ("[1]", InvalidJob, "not a JSON object but list"),
        ({"image": "teal.png", "question": "?"}, InvalidJob, "id: a line needs one"),
        (row(question=None), InvalidJob, "question: a line needs one"),
        (row(id="with space"), InvalidJob, "id: "),
        (row(max_tokens=3), InvalidJob, "max_tokens: no such field"),
        (row(version=2), InvalidJob, "version: no such field"),
        (row(max_new_tokens=0), InvalidJob, "max_new_tokens: "),
        (row(image="missing.png"), BadImage, "No such file"),
        (row(image="text.png"), BadImage, "not a picture"),
        (row(image="null\0byte.png"), BadImage, "null byte"),
        (row(question="half a pair \ud800"), InvalidJob, "text"),
        (row(image="https://example.org/cat.png"), BadImage, "addresses are not fetched"),
    ],
)
def test_a_bad_line_is_told_with_its_number_and_reason(folder: Path, line: Any, kind: type, reason: str) -> None:
    good, bad = read(folder, row(id="good"), "", line)[:1], read(folder, row(id="good"), "", line)[1:]
    assert isinstance(good[0], Job)
    [told] = bad
    assert isinstance(told, BadLine)
    assert told.number == 3
    assert type(told.error) is kind
    assert reason in str(told.error)


def test_a_second_line_of_the_same_id_is_a_bad_one(folder: Path) -> None:
    first, second = read(folder, row(), row(question="Another?"))
    assert isinstance(first, Job)
    assert isinstance(second, BadLine)
    assert second.id == "q1"


def test_lines_are_read_as_they_are_needed(folder: Path) -> None:
    def endless() -> Any:
        number = 0
        while True:
            number += 1
            yield json.dumps(row(id=f"q{number}"))

    jobs = read_jobs(endless(), folder, SETTINGS)
    assert [next(jobs), next(jobs)]


@given(lines=st.lists(rows.map(json.dumps) | st.text(max_size=40), max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_a_line_holds_it_is_one_job_or_one_bad_line(folder: Path, lines: list[str]) -> None:
    whole = [line for line in lines if line.strip()]
    found = list(read_jobs(lines, folder, SETTINGS))
    assert len(found) == len(whole)
    assert len(list(read_ids(lines))) == len(whole)
    out = io.StringIO()
    writer = Writer(out)
    for item in found:
        if isinstance(item, BadLine):
            writer.write_bad(item)
    out.getvalue().encode()


@given(
    fields=st.fixed_dictionaries(
        {"id": st.from_regex(r"[A-Za-z0-9._:@+-]{1,128}", fullmatch=True), "question": st.text(max_size=50)},
        optional={
            "max_new_tokens": st.integers(1, 32_768),
            "temperature": st.just(0.0) | st.floats(0.01, 2),
            "top_p": st.floats(0, 1, exclude_min=True, exclude_max=True),
            "seed": st.integers(0, 2**63 - 1),
            "lane": st.sampled_from(["interactive", "bulk"]),
            "stop": st.lists(st.text(min_size=1, max_size=5), max_size=3),
            "timeout_s": st.floats(0.1, 1000),
        },
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_every_field_of_a_job_survives_its_line(folder: Path, fields: dict[str, Any]) -> None:
    [job] = read(folder, row(**fields))
    assert isinstance(job, Job), job.error
    written = json.loads(job.to_json())
    assert job.messages[0].content[1].model_dump()["text"] == fields.pop("question")
    assert {name: written[name] for name in fields} == fields


def test_bytes_that_are_not_utf8_spoil_their_line_alone(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "mixed.jsonl"
    good = json.dumps(row(id="good"))
    file.write_bytes(b"\xef\xbb\xbf" + good.replace("good", "first").encode() + b'\n{"id": "\xff"}\n' + good.encode())
    with open_lines(file) as lines:
        first, bad, good_job = read_jobs(lines, folder, SETTINGS)
    assert isinstance(first, Job)
    assert isinstance(bad, BadLine)
    assert isinstance(good_job, Job)
    assert (first.id, bad.number, good_job.id) == ("first", 2, "good")


def test_outcomes_are_written_line_by_line() -> None:
    out = io.StringIO()
    writer = Writer(out)
    writer.write("q1", answer("q1", "teal, sûrement"))
    writer.write("q2", PromptTooLong("too long"))
    writer.write_bad(BadLine(7, None, InvalidJob("not JSON")))
    first, second, third = map(json.loads, out.getvalue().splitlines())
    assert (first["id"], first["answer"], first["finish_reason"]) == ("q1", "teal, sûrement", "stop")
    assert first["usage"] == {"prompt_tokens": 3, "completion_tokens": 2}
    assert second == {"id": "q2", "error": {"code": "prompt_too_long", "message": "too long"}}
    assert third == {"id": None, "error": {"code": "invalid_job", "message": "line 7: not JSON"}}
    assert (writer.answered, writer.failed) == (1, 2)
