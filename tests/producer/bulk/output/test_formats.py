"""OUT's and ERR's lines, and what is read back of them."""

import json

import pytest

from producer.bulk.output.formats import Failure, LineSummary, OpenAIFormat, ShortFormat, encode, parse_line
from tests.producer.conftest import answer
from vqa.answer import SeenImage, Usage

ID = "batch_1:abc"


def test_an_answer_is_a_line_of_openais_batch_output() -> None:
    line = json.loads(encode(OpenAIFormat().answer("row-1", answer(ID, "teal, sûrement"))))
    assert line.keys() == {"id", "custom_id", "response", "error"}
    assert (line["id"], line["custom_id"], line["error"]) == (ID, "row-1", None)
    assert (line["response"]["status_code"], line["response"]["request_id"]) == (200, ID)
    body = line["response"]["body"]
    assert isinstance(body.pop("created"), int)
    about = body.pop("vqa")
    assert body == {
        "id": ID,
        "object": "chat.completion",
        "model": "played",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "teal, sûrement"}, "finish_reason": "stop"}
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }
    assert (about["worker"], about["attempt"], about["reused"]) == ("played@here", 1, False)
    assert about["timings"]["total_s"] == 0.3


def test_a_row_without_one_is_a_line_with_its_code_and_number() -> None:
    line = json.loads(encode(OpenAIFormat().failure(ID, "row-1", Failure("bad_image", "not an image", 7))))
    error = {"code": "bad_image", "message": "not an image", "line": 7}
    assert line == {"id": ID, "custom_id": "row-1", "response": None, "error": error}


def test_the_short_form_keeps_its_lines() -> None:
    line = json.loads(encode(ShortFormat().answer("q1", answer(ID, "teal"))))
    assert (line["id"], line["answer"], line["finish_reason"], line["job"]) == ("q1", "teal", "stop", ID)
    assert line["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 1, "reasoning_tokens": 0}
    failed = json.loads(encode(ShortFormat().failure(ID, None, Failure("invalid_job", "not JSON", 7, bad_row=True))))
    assert failed == {"id": None, "error": {"code": "invalid_job", "message": "line 7: not JSON"}, "job": ID}


def test_a_chat_completion_of_an_earlier_release_has_no_cached_tokens() -> None:
    line = OpenAIFormat().answer("row-1", answer(ID, "teal"))
    del line["response"]["body"]["usage"]["prompt_tokens_details"]
    summary = parse_line(OpenAIFormat(), encode(line))
    assert summary is not None
    assert summary.usage == Usage(prompt_tokens=3, completion_tokens=2)


@pytest.mark.parametrize("form", [OpenAIFormat(), ShortFormat()])
def test_what_is_written_is_parse_line(form: OpenAIFormat | ShortFormat) -> None:
    given = answer(ID, "half a pair \ud800")
    assert parse_line(form, encode(form.answer("row-1", given))) == LineSummary.from_answer(given, "row-1")
    seen = SeenImage(source_width=40, source_height=30, frames=3)
    of_pages = given.model_copy(update={"images": (seen,)})
    summary = parse_line(form, encode(form.answer("row-2", of_pages)))
    assert summary == LineSummary.from_answer(of_pages, "row-2")
    assert summary is not None
    assert summary.is_partial
    failed = encode(form.failure(ID, None, Failure("cancelled", "so it was", 1)))
    assert parse_line(form, failed) == LineSummary(ID, "cancelled")


@pytest.mark.parametrize("form", [OpenAIFormat(), ShortFormat()])
@pytest.mark.parametrize(
    "line", [b"", b"\0\0\0", b"{", b"[]", b"1", b"{}", b'{"id": "q1", "answer": "teal"}', b'{"error": 1, "id": "x"}']
)
def test_what_no_run_of_ours_wrote_is_nothing(form: OpenAIFormat | ShortFormat, line: bytes) -> None:
    assert parse_line(form, line) is None
