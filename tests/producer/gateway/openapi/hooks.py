"""Loaded by schemathesis (`schemathesis.toml`): what no schema can say about valid requests.

Images are real ones and the input of batches is a file that exists, so that requests that should be accepted reach a
worker.
"""

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import schemathesis
from hypothesis import strategies
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.core.parameters import ParameterLocation
from schemathesis.core.transport import Response
from schemathesis.openapi.checks import RejectedPositiveData
from schemathesis.transport.serialization import Binary

from producer.gateway.batches.request import WEBHOOK_URL
from producer.gateway.chat.request_schema import EXAMPLE_IMAGE, IMAGE_PATTERN, URL_PATTERN
from tests.producer.gateway.chat_bodies import image_bytes, image_url

#: environment variable with the id of an uploaded file
FILE = "FUZZED_FILE_ID"

#: characters of an Idempotency-Key
MAX_KEY = 256

#: fields that exclude each other are left to one endpoint each, so that nothing is refused for the wrong reason
_LEFT_OUT = {
    "/v1/chat/completions": ("max_completion_tokens", "stop"),
    "/v1/ask": ("response_format",),
}

#: refusals of what the document allows, by code and first part of the field: only a look at the values tells
_BEYOND_SCHEMAS = {
    # bytes that are no image, or none at all
    ("bad_image", None),
    ("invalid_job", "image"),
    # fields that exclude each other
    ("invalid_job", None),
    # of a stream, or without another field
    ("invalid_job", "logprobs"),
    ("invalid_job", "n"),
    ("invalid_job", "top_logprobs"),
    # a video with frames and a file, or with other times than frames
    ("invalid_job", "messages"),
    # white space of another standard
    ("invalid_job", "question"),
    # a JSON schema that is none, has no grammar or only long answers; choices with such white space
    ("answer_too_long", None),
    ("invalid_job", "response_format"),
    ("invalid_webhook_url", "vqa"),
    # a cursor that was never listed
    ("invalid_request", "after"),
}

schemathesis.openapi.format("vqa-image", strategies.sampled_from([EXAMPLE_IMAGE, image_url("red"), image_url("navy")]))
schemathesis.openapi.media_type("image/*", strategies.sampled_from([image_bytes("red"), image_bytes("navy")]))


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    for path, names in _LEFT_OUT.items():
        for media in raw_schema["paths"][path]["post"]["requestBody"]["content"].values():
            for name in names:
                media["schema"]["properties"].pop(name, None)
    for each in _objects(raw_schema):
        if each.get("pattern") in (URL_PATTERN, IMAGE_PATTERN):
            del each["pattern"]
            each["format"] = "vqa-image"
        if isinstance(file := each.get("input_file_id"), dict) and FILE in os.environ:
            file["examples"] = [os.environ[FILE]]
        if isinstance(url := each.get("url"), dict) and url.get("examples") == [WEBHOOK_URL]:
            # resolves nowhere
            url["examples"] = ["https://hooks.invalid/vqa"]


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(each)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Let a key belong to one body: a second one would be refused for nothing else."""
    meta = case.meta
    if meta.generation.mode.is_negative and meta.phase.data.parameter_location == ParameterLocation.HEADER:
        # a changed header would make schemathesis forget that it leaves another out
        return
    key = case.headers.get("idempotency-key") if case.headers else None
    if isinstance(key, str) and len(key) <= MAX_KEY:
        request = f"{case.path} {case.media_type} {_plain(case.body)!r}"
        digest = hashlib.sha256(request.encode("utf-8", "surrogatepass")).hexdigest()
        case.headers["idempotency-key"] = (digest * 4)[: max(64, len(key))]


def _plain(value: Any) -> Any:
    """Return the value with the bytes of files in the place of strings that stand for them."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.data if isinstance(value, Binary) else value


@schemathesis.hook
def filter_failure(context: Any, failure: Failure, case: Any, response: Response) -> bool:
    """Keep a failure unless it is a refusal for a reason that no schema can tell, or a list that is text in a form."""
    if isinstance(failure, AcceptedNegativeData):
        return case.media_type != "multipart/form-data" or "/properties/stop" not in failure.message
    if not isinstance(failure, RejectedPositiveData):
        return True
    error = response.json()["error"]
    return (error["code"], error["param"] and error["param"].partition(".")[0]) not in _BEYOND_SCHEMAS
