"""Bodies that known programs send to `/v1/chat/completions`, as their source code writes them: all are accepted.

Read in November 2026. Where a program lets its users set what cannot be honoured (a penalty, tools), that is refused by
name, as for everybody.
"""

import base64
import json
from typing import Any

import pytest
from jsonschema_rs import validator_for
from openai.lib._parsing._completions import type_to_response_format_param
from pydantic import BaseModel

from producer.gateway.caller_images import CallerImages
from producer.gateway.chat.job_builder import ChatJob, JobBuilder
from producer.gateway.chat.request_schema import chat_schema
from producer.ids import new_id
from producer.images.reader import ImageReader
from vqa.gateway_settings import GatewaySettings
from vqa.settings import QueueSettings


class Animal(BaseModel):
    name: str
    legs: int | None


#: langgenius/dify-plugin-sdks, interfaces/model/openai_compatible/llm.py: _request_credentials_validation
DIFY_CHECK = {"model": "vqa", "max_tokens": 5, "messages": [{"role": "user", "content": "ping"}]}
DIFY_CHECK_STREAM = DIFY_CHECK | {"max_tokens": 10, "stream": True}

#: langgenius/dify-official-plugins, models/openai_api_compatible/models/llm/llm.py: _retry_with_safe_min_tokens
DIFY_CHECK_COMPLETION_TOKENS = {
    "model": "vqa",
    "messages": [{"role": "user", "content": "ping"}],
    "max_completion_tokens": 16,
    "stream": False,
}

#: the same SDK file: _generate, with the defaults of get_customizable_model_schema and an image
DIFY_CHAT = {
    "model": "vqa",
    "stream": True,
    "temperature": 0.7,
    "top_p": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0.0,
    "max_tokens": 512,
    "response_format": {"type": "text"},
    "messages": [
        {"role": "system", "content": "You are brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": "IMAGE", "detail": "high"}},
            ],
        },
    ],
    "stop": ["Observation:"],
    "user": "abc-123",
}

#: the same: response_format json_schema, whose text the user writes in OpenAI's form
DIFY_SCHEMA = {
    "model": "vqa",
    "stream": False,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object", "properties": {"a": {"type": "string"}}}},
    },
    "messages": [{"role": "user", "content": "?"}],
}

#: songquanpeng/one-api, controller/channel-test.go: buildTestRequest
ONE_API_TEST = {"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}

#: songquanpeng/one-api, relay/model/general.go: a relayed request without zero values; `seed` is a float64 in Go
ONE_API_RELAY = {
    "messages": [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "IMAGE"}}, {"type": "text", "text": "?"}],
        }
    ],
    "model": "vqa",
    "max_tokens": 64,
    "n": 1,
    "seed": 7,
    "stream": True,
    "temperature": 0.5,
    "top_p": 0.9,
    "user": "u",
}

#: QuantumNous/new-api, controller/channel-test.go: buildTestRequest
NEW_API_TEST = {
    "model": "vqa",
    "messages": [{"role": "user", "content": "hi"}],
    "stream": True,
    "stream_options": {"include_usage": True},
    "max_tokens": 16,
}

#: QuantumNous/new-api, service/convert.go: ClaudeToOpenAIRequest; MessageImageUrl in dto/openai_request.go has no tag
#: for MimeType, and writes an empty detail
NEW_API_FROM_CLAUDE = {
    "model": "vqa",
    "messages": [
        {"role": "system", "content": "You are brief."},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "IMAGE", "detail": "", "MimeType": ""}},
                {"type": "text", "text": "What is it?", "cache_control": {"type": "ephemeral"}},
            ],
        },
    ],
    "stream": False,
    "max_tokens": 1024,
    "temperature": 1,
    "stop": "\n\nHuman:",
}

#: langchain-ai/langchain, libs/partners/openai/langchain_openai/chat_models/base.py: _default_params and
#: _convert_message_to_dict; a chat that goes on after an answer
LANGCHAIN_CHAT = {
    "model": "vqa",
    "stream": False,
    "n": 1,
    "temperature": 0.0,
    "logprobs": False,
    "messages": [
        {"content": "You are brief.", "role": "system"},
        {
            "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": "IMAGE"}},
            ],
            "role": "user",
            "name": "ann",
        },
        {"content": "A square.", "role": "assistant"},
        {"content": "What colour?", "role": "user"},
    ],
}

#: the same file: _stream with stream_usage
LANGCHAIN_STREAM = {
    "model": "vqa",
    "stream": True,
    "stream_options": {"include_usage": True},
    "messages": [{"content": "?", "role": "user"}],
}

#: the same file: with_structured_output(method="json_schema") calls `client.chat.completions.parse`
LANGCHAIN_STRUCTURED = {
    "model": "vqa",
    "messages": [{"content": "Which animal?", "role": "user"}],
    "response_format": type_to_response_format_param(Animal),
    "parallel_tool_calls": False,
}

#: BerriAI/litellm, litellm/types/llms/openai.py: ChatCompletionTextObject and ChatCompletionImageUrlObject
LITELLM_CHAT = {
    "model": "vqa",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?", "cache_control": {"type": "ephemeral"}},
                {"type": "image_url", "image_url": {"url": "IMAGE", "detail": "low", "format": "image/png"}},
            ],
        }
    ],
    "stream": True,
    "stream_options": {"include_usage": True},
    "max_completion_tokens": 100,
    "metadata": {"trace": "t1"},
}

#: open-webui/open-webui, backend/open_webui/utils/payload.py: apply_model_params_to_body_openai, values at their
#: neutral positions
OPEN_WEBUI_CHAT = {
    "stream": True,
    "model": "vqa",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": "IMAGE"}},
            ],
        }
    ],
    "stream_options": {"include_usage": True},
    "temperature": 0.8,
    "top_p": 0.9,
    "min_p": 0.0,
    "max_tokens": 128,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "logit_bias": {},
    "seed": 0,
    "stop": ["</s>"],
}

#: open-webui/open-webui, backend/open_webui/routers/tasks.py: generate_title; its metadata stays in Open WebUI
OPEN_WEBUI_TITLE = {
    "model": "vqa",
    "messages": [{"role": "user", "content": "### Task: write a title"}],
    "stream": False,
    "max_completion_tokens": 1000,
}

#: openai-python: the message of an answer, dumped and sent back in the next turn
OPENAI_NEXT_TURN = {
    "model": "vqa",
    "messages": [
        {"role": "user", "content": "Which animal?"},
        {
            "content": '{"name":"cat","legs":4}',
            "refusal": None,
            "role": "assistant",
            "annotations": None,
            "audio": None,
            "function_call": None,
            "tool_calls": None,
            "parsed": {"name": "cat", "legs": 4},
            "reasoning_content": "It has whiskers.",
        },
        {"role": "user", "content": "And now?"},
    ],
    "stream_options": {"include_usage": True, "include_obfuscation": False},
    "stream": True,
    "tools": [],
    "tool_choice": "auto",
    "store": False,
    "service_tier": "auto",
}

SHAPES: dict[str, dict[str, Any]] = {
    name: value for name, value in list(globals().items()) if name.isupper() and isinstance(value, dict)
}


@pytest.fixture
def build(png: bytes) -> Any:
    image = "data:image/png;base64," + base64.b64encode(png).decode()

    def build(body: dict[str, Any]) -> ChatJob:
        settings = QueueSettings()
        images = CallerImages(settings, GatewaySettings(), ImageReader(settings))
        builder = JobBuilder(new_id("chatcmpl", None), None, None, settings, images)
        found = builder.from_json(json.dumps(body).replace('"IMAGE"', json.dumps(image)).encode())
        assert isinstance(found, ChatJob)
        return found

    return build


@pytest.mark.parametrize("name", SHAPES)
def test_the_body_of_a_known_client_becomes_a_job(build: Any, name: str) -> None:
    body = SHAPES[name]
    chat = build(body)
    assert chat.model == body["model"]
    assert chat.stream is body.get("stream", False)
    assert chat.include_usage is body.get("stream_options", {}).get("include_usage", False)
    assert len(chat.job.messages) == len(body["messages"])
    assert len(list(chat.job.images())) == json.dumps(body).count("IMAGE")
    assert chat.job.temperature == body.get("temperature", 0)
    assert chat.job.max_new_tokens == body.get("max_tokens", body.get("max_completion_tokens", 256))


@pytest.mark.parametrize("name", SHAPES)
def test_the_openapi_document_describes_the_body(name: str) -> None:
    body = json.loads(json.dumps(SHAPES[name]).replace("IMAGE", "data:image/png;base64,AAAA"))
    assert [error.message for error in validator_for(chat_schema()).iter_errors(body)] == []


def test_a_schema_from_a_pydantic_class_is_strict(build: Any) -> None:
    job = build(LANGCHAIN_STRUCTURED).job
    assert job.response_format.json_schema.strict is True
    assert job.parse('{"name":"cat","legs":null}') == {"name": "cat", "legs": None}
