"""Bodies of HTTP requests; `tests/producer/inputs/test_openai.py` has what they share with lines of Batch files."""

from typing import Any

import pytest

from producer.openai.chat_request import parse_body
from vqa.errors import InvalidJob

HELLO = [{"role": "user", "content": "Hello?"}]


def parse(**body: Any) -> Any:
    return parse_body({"messages": HELLO} | body, lambda url: url)


def test_our_own_fields_become_fields_of_the_job() -> None:
    request = parse(vqa={"lane": "bulk", "timeout_s": 5, "reuse": True})
    assert {name: request.fields[name] for name in ("lane", "timeout_s", "reuse")} == {
        "lane": "bulk",
        "timeout_s": 5,
        "reuse": True,
    }


def test_a_webhook_is_no_field_of_the_job() -> None:
    request = parse(vqa={"webhook": {"url": "https://a.example/hook"}})
    assert request.webhook_url == "https://a.example/hook"
    assert request.fields.keys() == parse().fields.keys()


def test_a_stream_ends_with_the_usage_only_if_asked() -> None:
    assert not parse().stream
    assert not parse(stream=None, stream_options=None, vqa=None).stream
    assert parse(stream=True).include_usage is False
    assert parse(stream=True, stream_options={"include_usage": True}).include_usage is True
    assert parse(stream=True, stream_options={"include_usage": None}).include_usage is False


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            {"vqa": {"tenant": "other"}},
            "vqa.tenant: not supported; there are lane, max_image_tokens, reuse, shrink_images, timeout_s, webhook",
        ),
        ({"vqa": {"A secret?": 1}}, "vqa.?: not supported"),
        ({"vqa": "bulk"}, "vqa: must be an object"),
        ({"stream": "yes"}, "stream: must be true or false"),
        ({"stream": 1}, "stream: must be true or false"),
        ({"stream_options": {"include_logs": True}}, "stream_options.include_logs: not supported"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage: must be true or false"),
        ({"vqa": {"timeout_s": "5"}}, "vqa.timeout_s: must be a number"),
        ({"vqa": {"reuse": "yes"}}, "vqa.reuse: must be true or false"),
        ({"vqa": {"webhook": {"url": 5}}}, "vqa.webhook.url: must be a string"),
        ({"vqa": {"webhook": {"url": "https://a.example", "secret": "s"}}}, "vqa.webhook.secret: not supported"),
        ({"max_tokens": "5"}, "max_tokens: must be a number"),
        ({"temperature": True}, "temperature: must be a number"),
        ({"model": 5}, "model: must be a string"),
        ({"n": True}, "n: must be a number"),
        ({"n": "2"}, "n: must be a number"),
        ({"n": 2, "stream": True}, "n: a stream has one answer"),
        ({"logprobs": 0}, "logprobs: must be true or false"),
        ({"logprobs": True, "stream": True}, "logprobs: a stream carries the text alone"),
        ({"top_k": "40"}, "top_k: must be a number"),
        ({"repetition_penalty": True}, "repetition_penalty: must be a number"),
        ({"reasoning_effort": "high"}, "reasoning_effort: not supported"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "the body: max_tokens and max_completion_tokens differ"),
        ({"messages": []}, "messages: must be a non-empty list"),
        ({"messages": [{"role": "user", "content": "?", "parsed": 1}]}, "messages.0.parsed: not supported"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "", "detail": 5}}]}]},
            "messages.0.content.0.image_url.detail: must be auto, low, high or original",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(body: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidJob) as error:
        parse(**body)
    assert str(error.value).startswith(reason)


@pytest.mark.parametrize("document", [None, [], "text", 5])
def test_a_body_is_an_object(document: object) -> None:
    with pytest.raises(InvalidJob, match="the body: must be an object"):
        parse_body(document, lambda url: url)


def test_neutral_values_of_other_servers_fields_are_accepted() -> None:
    plain = parse().fields
    assert parse(top_k=-1, min_p=0, repetition_penalty=1.0).fields == plain
    assert parse(top_k=0, tools=[], user="u", modalities=["text"]).fields == plain
    assert parse(n=1, stream=True).fields == plain
    assert parse(n=3).fields == {**plain, "n": 3}
    assert parse(presence_penalty=0, frequency_penalty=0.0, logprobs=False, top_logprobs=0).fields == plain


def test_how_tokens_are_chosen_is_said_in_openais_and_vllms_names() -> None:
    fields = {
        **{"top_k": 40, "min_p": 0.1, "presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.1},
        **{"logprobs": True, "top_logprobs": 5, "temperature": 0.7, "max_reasoning_tokens": 0},
    }

    assert parse(**fields).fields == {**parse().fields, **fields}
