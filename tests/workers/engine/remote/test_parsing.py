"""What is read and written: formats, events, gauges, addresses."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.schemas import schemas
from vqa.errors import InvalidJob, NotReady, SettingsError
from vqa.structured_output.grammar import json_grammar, one_of
from workers.engine.remote.address import ServerAddress
from workers.engine.remote.breaker import FIRST_S, LONGEST_S, MOST_FAILURES, Breaker
from workers.engine.remote.events import data_of, lines
from workers.engine.remote.formats import AnswerFormat
from workers.engine.remote.gauge import waiting_and_running
from workers.engine.remote.settings import RemoteSettings


@given(schema=schemas)
def test_a_schema_comes_out_of_its_grammar_as_it_went_in(schema: dict[str, Any]) -> None:
    assert AnswerFormat.from_grammar(json_grammar(json.dumps(schema))).schema == schema


@given(choices=st.lists(st.text(min_size=1), min_size=1, max_size=8, unique=True))
def test_choices_come_out_of_their_grammar_as_they_went_in(choices: list[str]) -> None:
    made = AnswerFormat.from_grammar(one_of(choices))
    assert made.choices == tuple(choices)
    assert [made.text(json.dumps(choice)) for choice in choices] == choices


@pytest.mark.parametrize("grammar", ["start: /a+/", "", "{}", '{"grammars":[]}', 'start: "a" "b"'], ids=range(5))
def test_another_grammar_is_refused(grammar: str) -> None:
    with pytest.raises(InvalidJob, match="JSON schemas and choices"):
        AnswerFormat.from_grammar(grammar)


def test_only_schemas_that_openai_enforces_are_called_strict() -> None:
    closed = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    strict = {**closed, "additionalProperties": False}
    assert AnswerFormat(strict).request()["json_schema"]["strict"] is True
    assert "strict" not in AnswerFormat({**strict, "required": []}).request()["json_schema"]


@given(found=st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b" ").rstrip(b"\r"))), cut=st.data())
def test_lines_do_not_depend_on_how_they_arrive(found: list[bytes], cut: st.DataObject) -> None:
    whole = b"".join(line + b"\r\n" for line in found)
    places = sorted(cut.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[a:b] for a, b in zip([0, *places], [*places, len(whole)], strict=True)]

    async def arriving() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def read() -> list[bytes]:
        return [line async for line in lines(arriving())]

    assert asyncio.run(read()) == found


def test_data_is_told_from_comments_and_other_fields() -> None:
    assert [data_of(line) for line in (b"data: {}", b"data:[DONE]", b": alive", b"event: x", b"")] == [
        *(b"{}", b"[DONE]"),
        *(None, None, None),
    ]


_VLLM = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a {b} c"} 3.0
vllm:num_requests_running{engine="1",model_name="a {b} c"} 4.0
vllm:num_requests_waiting{engine="0",model_name="a"} 2.0 1700000000
vllm:num_requests_waiting_by_reason{engine="0"} 9.0
"""


@pytest.mark.parametrize(
    ("metrics", "found"),
    [
        (_VLLM, (2, 7)),
        ("sglang:num_queue_reqs 5\nsglang:num_running_reqs 1", (5, 1)),
        ("vllm:num_requests_waiting 5", None),
        ("vllm:num_requests_waiting NaN\nvllm:num_requests_running NaN", None),
        ("", None),
    ],
    ids=["vllm", "sglang", "one", "nan", "none"],
)
def test_gauges_are_read(metrics: str, found: tuple[int, int] | None) -> None:
    assert waiting_and_running(metrics) == found


@given(metrics=st.text())
def test_any_text_is_read_for_gauges(metrics: str) -> None:
    assert waiting_and_running("vllm:num_requests_waiting{" + metrics) is None


def test_an_address_is_read_as_openai_clients_do() -> None:
    assert str(ServerAddress.parse("http://a:8000")) == "http://a:8000/v1"
    dashscope = ServerAddress.parse("https://dashscope.aliyuncs.com/compatible-mode/v1/")
    assert dashscope.chat == "https://dashscope.aliyuncs.com/compatible-mode/v1/chat/completions"
    assert ServerAddress.parse("http://a:8000/v1").metrics == "http://a:8000/metrics"


@pytest.mark.parametrize(
    "url", ["gpu1:8000", "ftp://a", "http://", "http://me:pw@a/v1", "http://me:pw/d@a", "http://a/?key=b", "http://a:x"]
)
def test_a_wrong_url_is_refused_by_the_settings_name(url: str) -> None:
    with pytest.raises(SettingsError, match="VQA_REMOTE_URLS") as caught:
        RemoteSettings(urls=url)
    assert "pw" not in str(caught.value)


def test_keys_belong_to_urls() -> None:
    def keys(**fields: Any) -> list[str | None]:
        return [server.key for server in RemoteSettings(urls="http://a,http://b", **fields).servers]

    assert keys() == [None, None]
    assert keys(key="k") == ["k", "k"]
    assert keys(key="k, l") == ["k", "l"]
    with pytest.raises(SettingsError, match="VQA_REMOTE_KEY: 3 keys for 2 URLs"):
        keys(key="k,l,m")
    for unsendable in ("schl\u00fcssel", "pw and more", "pw\nmore"):
        with pytest.raises(SettingsError, match=r"VQA_REMOTE_KEY: .*not ASCII") as caught:
            keys(key=unsendable)
        assert unsendable not in str(caught.value)
    with pytest.raises(NotReady, match="needs VQA_REMOTE_URLS"):
        _ = RemoteSettings().servers
    assert "secret" not in repr(RemoteSettings(urls="http://a", key="secret"))


def test_a_breaker_opens_after_failures_in_a_row_and_closes_by_one_success() -> None:
    now = [0.0]
    breaker = Breaker(lambda: now[0])
    for _ in range(MOST_FAILURES - 1):
        assert not breaker.fail("no")
    breaker.succeed()
    assert [breaker.fail("no") for _ in range(MOST_FAILURES)] == [False] * (MOST_FAILURES - 1) + [True]
    # a late answer to an earlier request proves nothing
    breaker.succeed()
    assert breaker.state == "open"
    now[0] += FIRST_S
    assert breaker.is_due
    breaker.looked()
    assert breaker.state == "half-open"
    assert breaker.succeed()
    assert breaker.state == "closed"


def test_a_breaker_stays_open_twice_as_long_each_time_up_to_a_bound() -> None:
    now, waits = [0.0], []
    breaker = Breaker(lambda: now[0])
    breaker.fail("no", at_once=True)
    for _ in range(8):
        since = now[0]
        while not breaker.is_due:
            now[0] += 0.5
        waits.append(now[0] - since)
        breaker.fail("no")
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_S, LONGEST_S, LONGEST_S]
