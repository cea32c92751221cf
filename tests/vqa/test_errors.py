import inspect
import json

import pytest

from vqa import Answer, Timings, Usage, errors
from vqa.celery import make_app
from vqa.errors import EngineError, ImageUnavailable, TransientError, VQAError
from vqa.results import decode, encode
from vqa.settings import QueueSettings

CLASSES = [member for _, member in inspect.getmembers(errors, inspect.isclass) if issubclass(member, VQAError)]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_comes_back_from_the_result_backend_as_itself(error: type[VQAError]) -> None:
    backend = make_app(QueueSettings()).backend
    back = decode(backend, encode(backend, "1", error("what happened"), attempts=2, last_error="EngineError: x"))
    assert type(back) is error
    assert str(back) == "what happened"
    assert (back.attempts, back.last_error) == (2, "EngineError: x")


def test_an_answer_of_a_newer_worker_is_read_without_what_is_new() -> None:
    backend = make_app(QueueSettings()).backend
    answer = Answer(
        id="1",
        text="red",
        finish_reason="stop",
        usage=Usage(prompt_tokens=3, completion_tokens=1),
        timings=Timings(queued_s=0, media_s=0, engine_s=0, total_s=0),
        model="m",
        worker="w",
        attempt=1,
    )
    written = json.loads(encode(backend, "1", answer))
    written["result"]["confidence"] = 0.9
    assert decode(backend, json.dumps(written).encode()) == answer


def test_only_transient_errors_are_worth_a_retry() -> None:
    assert {error for error in CLASSES if error.retry} == {TransientError, EngineError, ImageUnavailable}


@pytest.mark.parametrize("error", CLASSES)
def test_the_tree_in_the_docstring_names_every_class(error: type[VQAError]) -> None:
    assert f" {error.__name__} " in errors.__doc__.replace("\n", " ") or error is VQAError


def test_codes_are_the_class_names_as_bulk_files_write_them() -> None:
    assert errors.DeadlineExceeded.code() == "deadline_exceeded"
    assert errors.VQAError.code() == "vqaerror"
