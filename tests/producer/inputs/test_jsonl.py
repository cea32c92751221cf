"""The short form: a line is a row or a bad one, whatever stands in it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from producer import BadImage, InvalidJob
from producer.inputs import BadRow, Row, detect_source, image_sources, read_rows
from tests.producer.inputs.conftest import Read, good, question

REFERENCE = "sha256:" + "a" * 64


def row(**fields: Any) -> dict[str, Any]:
    return {"id": "q1", "image": "teal.png", "question": "What colour is it?"} | fields


def test_a_line_becomes_a_row_with_its_image_beside_the_file(read: Read, tmp_path: Path) -> None:
    [found] = good(read(row(max_new_tokens=5, expected="teal"), defaults={"lane": "bulk", "max_new_tokens": 9}))
    assert (found.number, found.custom_id, question(found)) == (1, "q1", "What colour is it?")
    assert image_sources(found) == (f"file:{tmp_path}/teal.png",)
    assert (found.fields["lane"], found.fields["max_new_tokens"]) == ("bulk", 5)
    assert "expected" not in found.fields


def test_a_row_becomes_a_job_once_its_images_are_read(read: Read, tmp_path: Path, png: bytes) -> None:
    images = ["teal.png", REFERENCE, "teal.png"]
    [found] = good(read({"id": "q1", "images": images, "question": "Which?", "seed": 3}))
    job = found.job("a-job", {f"file:{tmp_path}/teal.png": png}, batch="batch_1")
    assert [part.image for part in job.images()] == [png, REFERENCE, png]
    assert (job.id, job.batch, job.seed) == ("a-job", "batch_1", 3)
    assert image_sources(found) == (f"file:{tmp_path}/teal.png", REFERENCE)


def test_an_image_may_have_a_url_a_detail_and_pages(read: Read) -> None:
    url = "https://example.org/scan.tif?signature=1"
    [found] = read(row(image=url, detail="high", pages="2-3", max_image_tokens=512, shrink_images=True), form="short")
    assert isinstance(found, Row)
    assert image_sources(found) == (url,)
    job = found.job("a-job", {})
    [image] = job.images()
    assert (image.image, image.detail, image.pages) == (url, "high", "2-3")
    assert (job.max_image_tokens, job.shrink_images) == (512, True)


def test_a_row_may_ask_about_a_video(read: Read, tmp_path: Path) -> None:
    clip = {"id": "clip", "video": "clip.mp4", "fps": 1, "max_frames": 8, "question": "?"}
    frames = {"id": "frames", "frames": ["1.jpg", "2.jpg"], "times_s": [0, 0.5], "detail": "low", "question": "?"}
    first, second = read(clip, frames, form="short")
    assert isinstance(first, Row)
    assert isinstance(second, Row)
    assert image_sources(first) == (f"file:{tmp_path}/clip.mp4",)
    assert image_sources(second) == (f"file:{tmp_path}/1.jpg", f"file:{tmp_path}/2.jpg")
    [video] = first.job("a-job", dict.fromkeys(image_sources(first), REFERENCE)).videos()
    assert (video.video, video.fps, video.max_frames) == (REFERENCE, 1, 8)
    [video] = second.job("a-job", dict.fromkeys(image_sources(second), REFERENCE)).videos()
    assert (video.frames, video.times_s, video.detail) == ((REFERENCE, REFERENCE), (0, 0.5), "low")


@pytest.mark.parametrize(
    ("line", "kind", "reason"),
    [
        ("{", InvalidJob, "not JSON"),
        ("[" * 100_000, InvalidJob, "not JSON"),
        ('{"id": NaN}', InvalidJob, "not JSON"),
        ("[1]", InvalidJob, "not a JSON object but list"),
        ({"image": "teal.png", "question": "?"}, InvalidJob, "id: missing"),
        (row(id=""), InvalidJob, "id: missing"),
        (row(id="x" * 513), InvalidJob, "id: has 513 characters; at most 512"),
        (row(id="a\nb"), InvalidJob, "id: character 2 (U+000A) is not printable"),
        (row(id="at 9\u202fPM.png"), InvalidJob, "id: character 5 (U+202F) is not printable"),
        (row(id=True), InvalidJob, "id: must be a string or a number, not bool"),
        (row(id=[1]), InvalidJob, "id: must be a string or a number, not list"),
        (row(question=None), InvalidJob, "question: a string is required"),
        (row(question=" "), InvalidJob, "question: it is empty"),
        (row(max_tokens=3), InvalidJob, "max_tokens: unknown field"),
        (row(version=2), InvalidJob, "version: unknown field"),
        (row(batch="b"), InvalidJob, "batch: unknown field"),
        (row(**{"What colour?": 1}), InvalidJob, "?: unknown field"),
        (row(max_new_tokens=0), InvalidJob, "max_new_tokens: "),
        (row(question="half a pair \ud800"), InvalidJob, "text"),
        (row(images=["a.png"]), InvalidJob, "image and images"),
        ({"id": "q", "images": [], "question": "?"}, InvalidJob, "images: "),
        ({"id": "q", "images": ["a.png"] * 65, "question": "?"}, InvalidJob, "at most 64 images"),
        (row(image=""), BadImage, "empty"),
        (row(image="null\0byte.png"), BadImage, "null byte"),
        (row(image="half \ud800.png"), BadImage, "surrogate"),
        (row(image="ftp://example.org/cat.png"), InvalidJob, "ftp: URLs are not supported; there are data:, https:"),
        (row(image="https://example.org/" + "x" * 8192), BadImage, "at most 8,192 are allowed"),
        (row(detail="huge"), InvalidJob, "detail"),
        (row(pages="3-"), InvalidJob, "pages"),
        (row(fps=2), InvalidJob, "fps: only for frames or a video"),
        (row(video="clip.mp4"), InvalidJob, "image and video: only one of them is allowed"),
        ({"id": "q", "video": "clip.mp4", "pages": "2", "question": "?"}, InvalidJob, "pages: only for images"),
        ({"id": "q", "video": 5, "question": "?"}, InvalidJob, "video: a string is required"),
        ({"id": "q", "frames": ["1.jpg"], "times_s": [0, 1], "question": "?"}, InvalidJob, "2 times for 1 frames"),
        ({"id": "q", "frames": [], "question": "?"}, InvalidJob, "frames: must be a non-empty list of strings"),
        (row(image="file://elsewhere/cat.png"), InvalidJob, "another machine"),
        (row(image="sha256:abc"), InvalidJob, "64 hex digits"),
        (row(image="data:text/plain,hello"), BadImage, "data:image/TYPE;base64,"),
        (row(image="data:image/png;base64,a"), BadImage, "not valid base64"),
    ],
)
def test_a_bad_line_is_told_with_its_number_and_reason(read: Read, line: Any, kind: type, reason: str) -> None:
    first, bad, last = read(row(id="good"), "", line, row(id="better"), form="short")
    assert isinstance(first, Row)
    assert isinstance(last, Row)
    assert isinstance(bad, BadRow)
    assert bad.number == 3
    assert type(bad.error) is kind
    assert reason in str(bad.error)


@pytest.mark.parametrize(
    ("id", "custom_id"), [(1, "1"), (0, "0"), (-7, "-7"), (3.0, "3"), (2.5, "2.5"), ("007", "007")]
)
def test_numbers_are_ids(read: Read, id: object, custom_id: str) -> None:
    [found] = good(read(row(id=id)))
    assert found.custom_id == custom_id


def test_a_bad_line_is_told_with_its_id_where_that_can_be_printed(read: Read) -> None:
    first, second = read(row(id="q7", seed=-1), row(id="q\n7"))
    assert (first.custom_id, second.custom_id) == ("q7", None)


@pytest.mark.parametrize(
    ("image", "path"),
    [
        ("../up/teal.png", "{folder}/../up/teal.png"),
        ("/images/teal.png", "/images/teal.png"),
        ("file:teal%20green.png", "{folder}/teal green.png"),
        ("file:///images/t%C3%A9al.png", "/images/téal.png"),
        ("file://localhost/teal.png", "/teal.png"),
        ("FILE:/teal.png", "/teal.png"),
        ("100%.png", "{folder}/100%.png"),
        ("./data:teal.png", "{folder}/./data:teal.png"),
    ],
)
def test_paths_and_file_addresses_are_found_from_the_file(read: Read, tmp_path: Path, image: str, path: str) -> None:
    [found] = good(read(row(image=image)))
    assert image_sources(found) == ("file:" + path.format(folder=tmp_path),)


def test_an_id_that_came_before_makes_a_row_bad_even_where_the_first_was_bad(read: Read) -> None:
    rows = read(row(), row(question="Another?"), row(id="q2", seed=-1), row(id="q2"))
    assert [isinstance(found, Row) for found in rows] == [True, False, False, False]
    assert [found.custom_id for found in rows] == ["q1", "q1", "q2", "q2"]
    for found in (rows[1], rows[3]):
        assert isinstance(found, BadRow)
        assert str(found.error) == "an earlier row has the same custom_id"


def test_a_field_is_checked_although_the_row_before_was_good(read: Read) -> None:
    rows = read(
        row(id="1"),
        row(id="2"),
        row(id="3", temperature=0.001),
        row(id="4", question=5),
        row(id="5", metadata={"set": "a"}),
        row(id="6", metadata={"set": 1}),
    )
    assert [isinstance(found, Row) for found in rows] == [True, True, False, False, True, False]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["id", "image", "images", "question", "lane", "stop", "self", "source", "messages", "retry"])
chat_names = st.sampled_from(["custom_id", "method", "url", "body", "messages", "model", "content"])
ids = st.fixed_dictionaries({"id": st.text(min_size=1, max_size=3), "image": st.just("a.png"), "question": st.text()})
rows = st.dictionaries(names | st.text(max_size=8), json_values, max_size=6) | ids
bodies = st.fixed_dictionaries(
    {
        "custom_id": st.text(min_size=1, max_size=5),
        "method": st.just("POST"),
        "url": st.just("/v1/chat/completions"),
        "body": json_values | st.fixed_dictionaries({"messages": json_values}, optional={"stop": json_values}),
    }
)


@given(
    lines=st.lists(
        (rows | bodies | st.dictionaries(chat_names, json_values)).map(json.dumps).map(str.encode)
        | st.text(max_size=40).map(str.encode)
        | st.binary(max_size=20),
        max_size=5,
    ),
    form=st.sampled_from(["short", "openai", "csv"]),
)
@example(lines=[b'{"custom_id": "a", "method": "POST", "url": [], "body": {"messages": [[]]}}'], form="openai")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_a_line_holds_it_is_a_row_that_would_be_a_job_or_a_bad_one(
    tmp_path: Path, lines: list[bytes], form: Any
) -> None:
    file = tmp_path / "any"
    header = b"id,image,question\n" if form == "csv" else b"\n"
    written = [line.replace(b"\n", b" ") for line in lines]
    file.write_bytes(header + b"".join(line + b"\n" for line in written))
    found = list(read_rows(detect_source([str(file)], form=form)))
    if form != "csv":
        numbers = [at for at, line in enumerate(written, 2) if not line.decode(errors="replace").isspace() and line]
        assert [each.number for each in found] == numbers
    for each in found:
        if isinstance(each, Row):
            each.job("a-job", dict.fromkeys(image_sources(each), REFERENCE))
            assert len(each.digest()) == 64
