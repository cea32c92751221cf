"""OpenAI Batch files: what can be done is done, the rest is refused by name."""

import base64
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producer.inputs import BadRow, Row, image_sources
from tests.producer.inputs.conftest import Read, good

REFERENCE = "sha256:" + "b" * 64


def row(**body: Any) -> dict[str, Any]:
    text = {"type": "text", "text": "What is on it?"}
    messages = [{"role": "user", "content": [text, part("file:cat.png")]}]
    url = "/v1/chat/completions"
    return {"custom_id": "r1", "method": "POST", "url": url, "body": {"model": "m", "messages": messages} | body}


def part(url: object, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def asking(*content: Any, **message: Any) -> dict[str, Any]:
    return row(messages=[{"role": "user", "content": list(content), **message}])


def test_a_chat_keeps_the_order_of_its_messages_and_parts(read: Read, tmp_path: Path, png: bytes) -> None:
    data = "data:image/png;base64," + base64.b64encode(png).decode()
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [part("file:cat.png", detail="high"), {"type": "text", "text": "And this?"}]},
        {"role": "assistant", "content": "A cat.", "refusal": None},
        {"role": "user", "content": [{"type": "text", "text": "These?"}, part(data), part(REFERENCE)]},
    ]
    [found] = good(read(row(messages=messages)))
    assert image_sources(found) == (f"file:{tmp_path}/cat.png", data, REFERENCE)
    job = found.job("j", {f"file:{tmp_path}/cat.png": b"bytes"})
    assert [message.role for message in job.messages] == ["system", "user", "assistant", "user"]
    assert [each.image for each in job.images()] == [b"bytes", png, REFERENCE]


def test_a_body_is_read_into_the_fields_of_a_job(read: Read) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "cats", "schema": {"type": "object"}}}
    body = {
        "max_completion_tokens": 7,
        "max_tokens": None,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 4,
        "response_format": schema,
        "metadata": {"set": "a"},
        "user": "somebody",
        "n": 1,
        "stream": False,
        "frequency_penalty": 0.0,
        "tools": None,
    }
    [found] = good(read(row(**body), defaults={"lane": "bulk", "temperature": 1.0, "top_p": 0.1}))
    fields = {name: value for name, value in found.fields.items() if name != "messages"}
    assert fields == {
        "max_new_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 4,
        "response_format": schema,
        "metadata": {"set": "a"},
        "lane": "bulk",
    }


@pytest.mark.parametrize(("given", "stops"), [("\n", ("\n",)), (["a", "b"], ("a", "b")), ([], ()), (None, ())])
def test_stop_is_a_string_or_a_list(read: Read, given: Any, stops: tuple[str, ...]) -> None:
    [found] = good(read(row(stop=given, messages=[{"role": "user", "content": "Hello?"}])))
    assert found.job("j", {}).stop == stops


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (row() | {"custom_id": None}, "custom_id: missing"),
        (row() | {"method": "GET"}, "method: must be POST"),
        (row() | {"url": "/v1/embeddings"}, "url: must be /v1/chat/completions"),
        (row() | {"body": []}, "body: must be an object"),
        (row() | {"priority": 1}, "priority: unknown field"),
        (row(n=2), "n: over 1 it needs a temperature over 0"),
        (row(n=17, temperature=1), "n: "),
        (row(stream=True), "body.stream: only false"),
        (row(tools=[{"type": "function"}]), "body.tools: only [] is supported"),
        (row(tool_choice="required"), 'body.tool_choice: only "none" is supported'),
        (row(store=True), "body.store: only false"),
        (row(logit_bias={"5": 1}), "body.logit_bias: only {}"),
        (row(modalities=["audio"]), 'body.modalities: only ["text"]'),
        (row(reasoning_effort="high"), "body.reasoning_effort: not supported"),
        (row(presence_penalty=2.5), "presence_penalty: "),
        (row(logprobs=1), "body.logprobs: must be true or false"),
        (row(top_logprobs=1), "top_logprobs: it needs logprobs"),
        (row(logprobs=True, top_logprobs=20, max_tokens=2000), "x n is 42,000, and may be 32,768"),
        (row(max_new_tokens=5), "body.max_new_tokens: not supported"),
        (row(**{"A secret?": 5}), "body.?: not supported"),
        (row(max_tokens=5, max_completion_tokens=6), "differ"),
        (row(max_tokens=0), "max_new_tokens: "),
        (row(temperature="warm"), "temperature: "),
        (row(response_format={"type": "xml"}), "response_format"),
        (row(messages=[]), "body.messages: must be a non-empty list"),
        (row(messages=["hello"]), "body.messages.0: must be an object"),
        (row(messages=[{"role": "tool", "content": "?"}]), "body.messages.0.role: "),
        (row(messages=[{"role": "user"}]), "body.messages.0.content: "),
        (row(messages=[{"role": "user", "content": []}]), "messages.0.content"),
        (asking({"type": "text", "text": "?"}, tool_calls=[{}]), "body.messages.0.tool_calls: not supported"),
        (asking({"type": "text"}), "messages.0.content.0.text"),
        (
            asking({"type": "input_audio"}),
            "body.messages.0.content.0.type: must be text, image_url, video_url or video",
        ),
        (asking({"type": "image_url", "image_url": "file:a.png"}), "content.0.image_url: must be an object"),
        (asking(part(None)), "content.0.image_url.url: must be a string"),
        (asking(part("file:a.png", size=3)), "content.0.image_url.size: not supported"),
        (asking(part("ftp://example.org/cat.png")), "ftp: URLs are not supported; there are data:, https:"),
        (asking(part("cat.png")), "starts with data:, https:"),
        (asking(part("file:a.png"), pages="2"), "messages.0.pages: not supported"),
        (row(vqa={"lane": "bulk"}), "body.vqa.lane: not supported; there are max_image_tokens, shrink_images"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(read: Read, line: dict[str, Any], reason: str) -> None:
    [bad] = read(line, form="openai")
    assert isinstance(bad, BadRow)
    assert reason in str(bad.error)


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [], "tool_choice": "none", "parallel_tool_calls": True},
        {"tool_choice": "auto", "functions": []},
        {"store": False, "service_tier": "flex", "logit_bias": {}, "top_logprobs": 0, "stream_options": {}},
        {"modalities": ["text"], "prompt_cache_key": "k", "safety_identifier": "s"},
        {"messages": [{"role": "user", "content": "?", "name": "ann"}]},
        {
            "messages": [
                {"role": "assistant", "content": "!", "tool_calls": [], "annotations": []},
                {"role": "user", "content": "?"},
            ]
        },
    ],
)
def test_what_has_no_effect_is_accepted(read: Read, body: dict[str, Any]) -> None:
    [found] = good(read(row(**body)))
    [plain] = good(read(row()))
    assert found.fields.keys() == plain.fields.keys()


def test_azures_address_is_the_same(read: Read) -> None:
    good(read(row() | {"url": "/chat/completions"}))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
parts = st.builds(lambda text: {"type": "text", "text": text}, texts) | st.just(part(REFERENCE))
chats = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "user", "assistant"]),
            "content": texts | st.lists(parts, min_size=1, max_size=4),
        }
    ),
    min_size=1,
    max_size=4,
)


@given(
    messages=chats,
    body=st.fixed_dictionaries(
        {},
        optional={
            "max_tokens": st.integers(1, 32_768),
            "temperature": st.just(0.0) | st.floats(0.01, 2),
            "top_p": st.floats(0, 1, exclude_min=True),
            "seed": st.integers(0, 2**63 - 1),
            "stop": st.lists(texts.filter(bool), max_size=3),
        },
    ),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_every_body_comes_back_from_its_job(read: Read, messages: list[Any], body: dict[str, Any]) -> None:
    [found] = read(row(messages=messages, **body))
    assert isinstance(found, Row), found.error
    written = found.job("j", {}).model_dump(mode="json")
    chat = [
        {"role": message["role"], "content": [_as_openai(each) for each in message["content"]]}
        for message in written["messages"]
    ]
    assert chat == [
        message | {"content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message["content"], str)
        else message
        for message in messages
    ]
    own = {"max_new_tokens" if name == "max_tokens" else name: value for name, value in body.items()}
    assert {name: written[name] for name in own} == own


def _as_openai(written: dict[str, Any]) -> dict[str, Any]:
    return part(written["image"]) if written["type"] == "image" else written
