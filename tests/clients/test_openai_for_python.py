"""OpenAI's client for Python, unmodified, against a gateway with API keys and a worker with the bundled model."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI, AzureOpenAI, OpenAI
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from producer.demo.questions import Example, read_examples
from producer.gateway.access.key_record import KeyRecord
from tests.clients.site import Site, open_site
from tests.producer.gateway.webhooks.receiver import Receiver
from tests.worker_process import ROOT, TINY
from vqa.images.data_url import to_data_url

#: those that the bundled model knows
EXAMPLES = [each for each in read_examples(ROOT / "examples") if each.expected]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    allowed = {"VQA_GATEWAY_WEBHOOK_PRIVATE": "1"}
    folder = tmp_path_factory.mktemp("site")
    with open_site(folder, allowed, VQA_ENGINE="auto", VQA_MODEL=str(TINY), VQA_SLOTS="16") as site:
        yield site


@pytest.fixture(scope="module")
def client(site: Site) -> OpenAI:
    return site.client()


def ask(example: Example, **fields: Any) -> dict[str, Any]:
    """A body with the example's image and question."""
    image = {"type": "image_url", "image_url": {"url": to_data_url(example.image.read_bytes()), "detail": "high"}}
    content = [image, {"type": "text", "text": example.question}]
    return {"model": "tiny-vl", "messages": [{"role": "user", "content": content}], **fields}


def text_of(completion: ChatCompletion) -> str:
    text = completion.choices[0].message.content
    assert text is not None
    return text


def test_questions_about_images_get_right_answers(client: OpenAI) -> None:
    for example in EXAMPLES[:5]:
        completion = client.chat.completions.create(**ask(example))
        assert text_of(completion) == example.expected
        assert completion.choices[0].finish_reason == "stop"
        usage = completion.usage
        assert usage
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        assert usage.prompt_tokens > 10
        assert completion.model == "tiny-vl"


def long_text() -> dict[str, Any]:
    """A response format whose answers take a while, so that they come in pieces."""
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "string", "minLength": 60, "maxLength": 90}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "long", "strict": True, "schema": schema}}


def test_a_streamed_answer_is_the_same_text_in_pieces(client: OpenAI) -> None:
    body = ask(EXAMPLES[3], max_tokens=200, response_format=long_text())
    whole = client.chat.completions.create(**body)
    chunks = list(client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True}))
    pieces = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]
    assert "".join(pieces) == text_of(whole)
    assert len(pieces) > 1
    assert [chunk.usage for chunk in chunks] == [None] * (len(chunks) - 1) + [whole.usage]
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    with client.chat.completions.stream(**body) as stream:
        assert text_of(stream.get_final_completion()) == text_of(whole)


def test_a_hundred_at_once_each_get_their_answer(site: Site, client: OpenAI) -> None:
    async def ask_all(examples: list[Example]) -> list[ChatCompletion]:
        async with AsyncOpenAI(base_url=site.url, api_key=client.api_key, max_retries=0, timeout=60) as many:
            return await asyncio.gather(*(many.chat.completions.create(**ask(each)) for each in examples))

    examples = (EXAMPLES * 100)[:100]
    completions = asyncio.run(ask_all(examples))
    assert len({completion.id for completion in completions}) == 100
    right = [text_of(answer) == each.expected for answer, each in zip(completions, examples, strict=True)]
    assert sum(right) == 100


class Seen(BaseModel):
    colour: Literal["red", "green", "blue", "yellow", "purple", "orange", "black", "white"]
    certain: bool


def test_a_pydantic_class_is_parsed_from_the_answer(client: OpenAI) -> None:
    completion = client.chat.completions.parse(**ask(EXAMPLES[0], response_format=Seen, max_tokens=64))
    parsed = completion.choices[0].message.parsed
    assert isinstance(parsed, Seen)
    assert Seen.model_validate_json(text_of(completion)) == parsed


def test_a_json_object_is_one(client: OpenAI) -> None:
    body = ask(EXAMPLES[0], response_format={"type": "json_object"}, max_tokens=64)
    completion = client.chat.completions.create(**body)
    assert isinstance(json.loads(text_of(completion)), dict)


def test_models_are_listed_also_with_the_header_of_azures_client(site: Site, client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny-vl"]
    assert client.models.retrieve("tiny-vl").owned_by == "vqa"
    with AzureOpenAI(base_url=site.url, api_key=client.api_key, api_version="2024-10-21") as azure:
        assert [model.id for model in azure.models.list()] == ["tiny-vl"]


def test_headers_tell_what_is_left_of_a_limit(site: Site) -> None:
    limited = site.client(requests_per_minute=10, tokens_per_minute=100_000)
    responses = [limited.chat.completions.with_raw_response.create(**ask(EXAMPLES[0])) for _ in range(2)]
    left = [int(each.headers["x-ratelimit-remaining-requests"]) for each in responses]
    assert left == [9, 8]
    assert {each.headers["x-ratelimit-limit-requests"] for each in responses} == {"10"}
    assert {each.headers["x-ratelimit-limit-tokens"] for each in responses} == {"100000"}
    assert 90_000 < int(responses[0].headers["x-ratelimit-remaining-tokens"]) < 100_000
    assert responses[0].headers["x-request-id"] != responses[1].headers["x-request-id"]
    assert text_of(responses[0].parse()) == EXAMPLES[0].expected


def batch_line(number: int, body: dict[str, Any]) -> bytes:
    row = {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(row).encode() + b"\n"


def test_a_batch_goes_from_its_file_to_its_output_and_a_signed_webhook(site: Site) -> None:
    key, record = site.keys.create("batches")
    client = site.client_with(key)
    lines = [batch_line(number, ask(each)) for number, each in enumerate(EXAMPLES)]
    lines.append(batch_line(len(lines), ask(EXAMPLES[0], temperature=9)))
    with Receiver() as receiver:
        file = client.files.create(file=("rows.jsonl", b"".join(lines)), purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"project": "python"},
            extra_body={"vqa": {"webhook": {"url": receiver.url}}},
        )
        until = time.monotonic() + 60
        while (batch := client.batches.retrieve(batch.id)).status not in ("completed", "failed"):
            assert time.monotonic() < until, batch
            time.sleep(0.1)
        [told] = receiver.wait(1)
    assert batch.status == "completed"
    check_output(client, batch.output_file_id, batch.error_file_id)
    check_event(client, told.body, dict(told.headers), record, batch.id)
    assert batch.metadata == {"project": "python"}
    assert batch.usage
    assert batch.usage.total_tokens > 100


def check_output(client: OpenAI, output: str | None, errors: str | None) -> None:
    """The output has the right answers, the error file the row that asked for something impossible."""
    assert output
    assert errors
    answered = [json.loads(line) for line in client.files.content(output).iter_lines()]
    assert [line["custom_id"] for line in answered] == [f"row-{number}" for number in range(len(EXAMPLES))]
    texts = [text_of(ChatCompletion.model_validate(line["response"]["body"])) for line in answered]
    assert texts == [each.expected for each in EXAMPLES]
    [bad] = map(json.loads, client.files.content(errors).text.splitlines())
    assert (bad["custom_id"], bad["response"]["status_code"]) == (f"row-{len(EXAMPLES)}", 400)


def check_event(client: OpenAI, body: bytes, headers: dict[str, str], record: KeyRecord, batch: str) -> None:
    event = client.webhooks.unwrap(body, headers, secret=record.webhook_secret)
    assert event.type == "batch.completed"
    assert event.data.id == batch


def test_lists_go_on_over_pages(site: Site) -> None:
    client = site.client()
    files = [client.files.create(file=(f"{n}.jsonl", batch_line(n, {})), purpose="batch").id for n in range(5)]
    given = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batches = [client.batches.create(input_file_id=id, **given).id for id in files]
    assert [file.id for file in client.files.list(limit=2, purpose="batch")] == files[::-1]
    assert [file.id for file in client.files.list(limit=2, purpose="batch", order="asc")] == files
    assert [batch.id for batch in client.batches.list(limit=2)] == batches[::-1]
    assert client.files.delete(files[0]).deleted
    assert [file.id for file in client.files.list(purpose="batch", order="asc")] == files[1:]
