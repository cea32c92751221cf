"""How OpenAI's client for Python sees errors, limits and cancelled work; the worker answers as late as it is told."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.clients.site import Site, open_site
from tests.producer.conftest import wait_until


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("site"), {}, VQA_SLOTS="1") as site:
        yield site


@pytest.fixture(scope="module")
def client(site: Site) -> OpenAI:
    return site.client()


def body(content: object = "?", **fields: Any) -> dict[str, Any]:
    return {"model": "any", "messages": [{"role": "user", "content": content}], **fields}


def slow(seconds: float, **fields: Any) -> dict[str, Any]:
    """A body whose answer takes so long; its first word comes at once."""
    return body(f"slowly, {seconds}", metadata={"echo_delay_s": str(seconds)}, **fields)


def failing(kind: str) -> dict[str, Any]:
    return body(metadata={"echo_fail": kind})


NO_IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,bm8gaW1hZ2U="}}]

Call = Callable[[OpenAI], object]


def chat(request: dict[str, Any]) -> Call:
    return lambda client: client.chat.completions.create(**request)


def upload_to_train(client: OpenAI) -> object:
    return client.files.create(file=b"{}", purpose="fine-tune")


@pytest.mark.parametrize(
    ("call", "kind", "status", "code"),
    [
        (chat(body(temperature=9)), openai.BadRequestError, 400, "invalid_job"),
        (chat(body(NO_IMAGE)), openai.BadRequestError, 400, "bad_image"),
        (chat(failing("PromptTooLong")), openai.BadRequestError, 400, "prompt_too_long"),
        (chat(body(extra_body={"vqa": {"lane": "fast"}})), openai.BadRequestError, 400, "invalid_job"),
        (chat(failing("EngineError")), openai.InternalServerError, 500, "job_given_up"),
        (chat(slow(60, extra_body={"vqa": {"timeout_s": 1}})), openai.InternalServerError, 504, "deadline_exceeded"),
        (lambda client: client.files.retrieve("file_none"), openai.NotFoundError, 404, "not_found"),
        (lambda client: client.batches.retrieve("batch_none"), openai.NotFoundError, 404, "not_found"),
        (lambda client: client.models.retrieve("gpt-9"), openai.NotFoundError, 404, "model_not_found"),
        (lambda client: client.responses.create(model="any", input="?"), openai.NotFoundError, 404, "not_found"),
        (upload_to_train, openai.BadRequestError, 400, "invalid_request"),
    ],
)
def test_an_error_is_of_the_class_that_the_client_has_for_it(
    client: OpenAI, call: Call, kind: type[openai.APIStatusError], status: int, code: str
) -> None:
    with pytest.raises(kind) as caught:
        call(client)
    assert type(caught.value) is kind
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert caught.value.request_id
    assert caught.value.message


def test_a_key_that_is_wrong_or_may_not_is_told_apart(site: Site) -> None:
    with pytest.raises(openai.AuthenticationError) as unknown:
        site.client_with("vqa_wrong").models.list()
    assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.PermissionDeniedError) as refused:
        site.client(lanes=("interactive",)).chat.completions.create(**body(), extra_body={"vqa": {"lane": "bulk"}})
    assert refused.value.code == "lane_not_allowed"


def test_what_another_key_has_made_is_not_found(site: Site, client: OpenAI) -> None:
    file = client.files.create(file=("rows.jsonl", b"{}\n"), purpose="batch")
    other = site.client()
    for call in (other.files.retrieve, other.files.content, other.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(file.id)
    assert client.files.retrieve(file.id).filename == "rows.jsonl"
    assert file.id not in [each.id for each in other.files.list()]


def test_a_client_that_waits_no_longer_raises_its_own_error_and_its_job_is_cancelled(site: Site) -> None:
    impatient = site.client(tenant="impatient").with_options(timeout=0.5)
    with pytest.raises(openai.APITimeoutError):
        impatient.chat.completions.create(**slow(60))
    assert_slot_is_free(site)


def assert_slot_is_free(site: Site) -> None:
    """The only slot answers somebody else at once."""
    started = time.monotonic()
    site.client().chat.completions.create(**body())
    assert time.monotonic() - started < 5


def test_leaving_a_stream_frees_its_slot(site: Site, client: OpenAI) -> None:
    response = client.chat.completions.with_raw_response.create(**slow(60, stream=True))
    stream, id = response.parse(), response.headers["x-vqa-job-id"]
    text = (chunk.choices[0].delta.content for chunk in stream if chunk.choices)
    assert next(filter(None, text)).startswith("echo:")
    stream.close()
    assert_slot_is_free(site)
    job = client.get(f"/jobs/{id}", cast_to=dict[str, Any])
    assert job["status"] == "cancelled"


def test_a_stream_that_fails_after_its_first_piece_raises(client: OpenAI) -> None:
    with pytest.raises(openai.APIError) as caught:
        list(client.chat.completions.create(**slow(60, stream=True), extra_body={"vqa": {"timeout_s": 1}}))
    assert caught.value.code == "deadline_exceeded"


def test_a_limit_is_told_and_met_again_after_the_time_that_it_tells(site: Site) -> None:
    limited = site.client(in_flight=1)
    later = {"Prefer": "respond-async"}
    limited.chat.completions.create(**slow(1.5, extra_body={"vqa": {"timeout_s": 3}}), extra_headers=later)
    with pytest.raises(openai.RateLimitError) as refused:
        limited.chat.completions.create(**body())
    assert refused.value.code == "rate_limit_exceeded"
    wait_s = int(refused.value.response.headers["retry-after"])
    assert 1 <= wait_s <= 4
    started = time.monotonic()
    # the client's own retries, which wait as long as they are told
    answer = limited.with_options(max_retries=3).chat.completions.with_raw_response.create(**body())
    assert answer.retries_taken >= 1
    assert time.monotonic() - started >= 1
    assert answer.parse().choices[0].message.content


def batch_of(client: OpenAI, request: dict[str, Any]) -> str:
    row = {"custom_id": "only", "method": "POST", "url": "/v1/chat/completions", "body": request}
    file = client.files.create(file=("rows.jsonl", json.dumps(row).encode()), purpose="batch")
    made = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    return made.id


def test_a_batch_is_cancelled(site: Site, client: OpenAI) -> None:
    id = batch_of(client, slow(60))
    wait_until(lambda: client.batches.retrieve(id).status == "in_progress", "the batch is under way")
    assert client.batches.cancel(id).status in ("cancelling", "cancelled")
    wait_until(lambda: client.batches.retrieve(id).status == "cancelled", "the batch is cancelled")
    assert_slot_is_free(site)


def test_a_batch_that_is_over_is_a_conflict_to_cancel(client: OpenAI) -> None:
    id = batch_of(client, body())
    wait_until(lambda: client.batches.retrieve(id).status == "completed", "the batch is completed")
    with pytest.raises(openai.ConflictError) as caught:
        client.batches.cancel(id)
    assert caught.value.code == "batch_over"
