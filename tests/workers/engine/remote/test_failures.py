"""The engine before servers that fail: what a job sees of it, and what the others do not."""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import pytest

from tests.workers.engine.remote.chat_server import Exchange, Handle, delta, refuses, streams
from tests.workers.engine.remote.conftest import StartEngine, StartServer, prompt
from vqa.errors import DeadlineExceeded, EngineError, InvalidJob, NotReady, PromptTooLong, VQAError
from workers.engine.base import EngineUnavailable
from workers.engine.remote import breaker, events, servers
from workers.engine.remote.address import ServerAddress
from workers.engine.remote.engine import RemoteEngine
from workers.engine.remote.failures import Broken, Busy, Forbidden, Refusal, failure_in_stream, failure_of
from workers.engine.remote.line import Line
from workers.engine.remote.server import Server, Silence

WAIT_S = 10


async def breaks_off(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.send(delta("a part of a secret answer"))
    exchange.break_off()


async def breaks_off_at_once(exchange: Exchange) -> None:
    await exchange.begin()
    exchange.break_off()


async def ends_early(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.send(delta("a part"))
    await exchange.end()


async def hangs(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.send(delta("a part"))
    await exchange.gone()


async def sends_no_json(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.send("a secret answer")
    await exchange.end()


async def sends_a_huge_line(exchange: Exchange) -> None:
    await exchange.begin()
    while True:
        await exchange.raw(b"data: " + b"x" * 65536)


async def is_aborted(exchange: Exchange) -> None:
    await streams(chunks=[delta("a part"), delta(finish="abort")])(exchange)


async def says_an_error(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.send({"error": {"message": "a secret question", "type": "server_error", "code": "engine_error"}})
    await exchange.end()


@pytest.mark.parametrize(
    ("handle", "reason"),
    [
        (breaks_off, "the connection broke off"),
        (breaks_off_at_once, "the connection broke off"),
        (ends_early, "the stream broke off"),
        (hangs, "silent for 0.3 s between two pieces .VQA_HANG_S"),
        (sends_no_json, "something else than a chat completion"),
        (sends_a_huge_line, "a line of the stream has more than 131072 bytes"),
        (is_aborted, "ended the answer before it was finished"),
        (says_an_error, "an error in the stream, engine_error"),
        (refuses(500, {"message": "a secret question", "code": 500}), "status 500"),
    ],
    ids=["breaks-off", "breaks-off-at-once", "ends-early", "hangs", "no-json", "huge-line", "abort", "error", "500"],
)
def test_a_failed_answer_is_a_transient_error_and_never_a_whole_answer(
    start_server: StartServer,
    start_engine: StartEngine,
    monkeypatch: pytest.MonkeyPatch,
    handle: Handle,
    reason: str,
) -> None:
    monkeypatch.setattr(events, "MOST_LINE", 131_072)
    engine = start_engine(start_server(handle), hang_s=0.3)
    with pytest.raises(EngineError, match=reason) as caught:
        engine.submit(prompt(on_text=lambda piece: None)).result(WAIT_S)
    assert caught.value.retry
    assert not isinstance(caught.value, EngineUnavailable)
    assert "secret" not in str(caught.value)


def test_a_request_that_fails_before_its_first_piece_is_sent_again_once(
    start_server: StartServer, start_engine: StartEngine
) -> None:
    server = start_server(breaks_off_at_once, streams("two"))
    assert start_engine(server).submit(prompt()).result(WAIT_S).text == "two"
    assert len(server.bodies) == 2


def test_an_answer_is_not_begun_again_once_a_piece_was_passed_on(
    start_server: StartServer, start_engine: StartEngine
) -> None:
    server, pieces = start_server(breaks_off, streams("another answer")), list[str]()
    with pytest.raises(EngineError):
        start_engine(server).submit(prompt(on_text=pieces.append)).result(WAIT_S)
    assert pieces == ["a part of a secret answer"]
    assert len(server.bodies) == 1


def test_an_answer_is_whole_once_its_end_was_said(start_server: StartServer, start_engine: StartEngine) -> None:
    async def loses_its_usage(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.send(delta("two", finish="stop"))
        exchange.break_off()

    assert start_engine(start_server(loses_its_usage)).submit(prompt()).result(WAIT_S).text == "two"


@pytest.mark.parametrize("done", [True, False], ids=["done", "not-done"])
def test_an_answer_is_whole_though_its_stream_never_ends(
    start_server: StartServer, start_engine: StartEngine, done: bool
) -> None:
    async def stays_open(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.send(delta("two", finish="stop"))
        if done:
            await exchange.send("[DONE]")
        for _ in range(50):
            await exchange.raw(b": alive\n\n")
            await asyncio.sleep(0.1)

    engine, began = start_engine(start_server(stays_open), hang_s=0.3), time.monotonic()
    assert engine.submit(prompt(on_text=lambda piece: None)).result(WAIT_S).text == "two"
    assert time.monotonic() - began < 3.0


def test_a_busy_server_is_not_asked_again_at_once(start_server: StartServer, start_engine: StartEngine) -> None:
    server = start_server(refuses(429, Retry_After="0"))
    with pytest.raises(DeadlineExceeded):
        start_engine(server).submit(prompt(deadline=time.monotonic() + 1.5)).result(WAIT_S)
    assert len(server.bodies) <= 2


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_when_it_says(
    start_server: StartServer, start_engine: StartEngine, status: int
) -> None:
    server = start_server(refuses(status, Retry_After="1"), streams("two"))
    engine, began = start_engine(server), time.monotonic()
    assert engine.submit(prompt()).result(WAIT_S).text == "two"
    assert 1.0 <= time.monotonic() - began < 3.0
    # from 1, which halves to no less, to 2 by the answer
    assert engine.places == 1


def test_another_server_answers_for_one_that_is_busy(start_server: StartServer, start_engine: StartEngine) -> None:
    busy, free = start_server(refuses(429, Retry_After="60")), start_server(streams("two"))
    engine = start_engine(busy, free)
    for n in range(20):
        assert engine.submit(prompt(id=str(n))).result(WAIT_S).text == "two"
    assert len(busy.bodies) == 1


def test_jobs_do_not_notice_a_server_that_dies(start_server: StartServer, start_engine: StartEngine) -> None:
    dying, living = start_server(streams("two", pause_s=0.05)), start_server(streams("two", pause_s=0.05))
    engine = start_engine(dying, living)
    futures = [engine.submit(prompt(id=str(n))) for n in range(20)]
    until = time.monotonic() + WAIT_S
    while not (dying.bodies and living.bodies):
        assert time.monotonic() < until
        time.sleep(0.01)
    dying.close()
    assert {future.result(WAIT_S).text for future in futures} == {"two"}


def test_a_server_that_comes_back_is_asked_again(start_server: StartServer, start_engine: StartEngine) -> None:
    first = start_server(streams("one"))
    engine = start_engine(first)
    first.close()
    future = engine.submit(prompt())
    _wait(lambda: engine.places == 0)
    second = start_server(streams("two"), port=first.port)
    assert future.result(WAIT_S).text == "two"
    assert engine.places >= 1
    assert len(second.bodies) == 1


def test_prompts_return_to_the_queue_if_no_server_answers(
    start_server: StartServer, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_GIVE_UP_S", 0.2)
    server = start_server(streams("two"))
    engine = start_engine(server)
    server.close()
    with pytest.raises(EngineUnavailable, match=r"no server of VQA_REMOTE_URLS answers: .*no connection"):
        engine.submit(prompt()).result(20)
    assert engine.places == 0


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_refuses_the_worker_gets_no_jobs(
    start_server: StartServer, start_engine: StartEngine, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_GIVE_UP_S", 0.2)
    server = start_server(refuses(status, {"message": "no", "code": "invalid_api_key"}))
    engine = start_engine(server)
    server.models = refuses(status)
    futures = [engine.submit(prompt(id=str(n))) for n in range(8)]
    for future in futures:
        with pytest.raises(EngineUnavailable, match=f"status {status}"):
            future.result(20)
    # those that were under way together, and no further one
    assert len(server.bodies) <= 4
    assert engine.places == 0


def test_a_worker_does_not_start_with_a_key_that_is_refused(
    start_server: StartServer, start_engine: StartEngine
) -> None:
    server = start_server(streams("two"))
    server.models = refuses(401)
    with pytest.raises(NotReady, match=r"status 401.*Is VQA_REMOTE_KEY right"):
        start_engine(server, key="wrong", patience_s=60)


def test_a_worker_waits_for_its_server_and_says_so(
    start_server: StartServer, start_engine: StartEngine, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server(streams("two"))
    server.close()
    with pytest.raises(NotReady, match=r"answers within 0.1 s: .*no connection \(.+\)\. Start one first") as caught:
        start_engine(server, patience_s=0.1)
    assert "ConnectError" not in str(caught.value)
    assert "no server answers yet" in caplog.text


def test_a_request_that_the_server_calls_bad_is_the_jobs_error(
    start_server: StartServer, start_engine: StartEngine
) -> None:
    error = {"message": "a secret question", "code": "bad_thing", "param": "temperature"}
    server = start_server(refuses(400, error), streams("two"))
    engine = start_engine(server)
    with pytest.raises(InvalidJob, match=r"refuses the request \(status 400, bad_thing, about temperature\)"):
        engine.submit(prompt()).result(WAIT_S)
    assert engine.submit(prompt()).result(WAIT_S).text == "two"


def test_a_firewalls_refusal_of_one_prompt_becomes_that_prompts_error(
    start_server: StartServer, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "FIRST_S", 0.1)

    async def forbids_one(exchange: Exchange) -> None:
        forbidden = "script" in str(exchange.body["messages"])
        await (refuses(403) if forbidden else streams("two"))(exchange)

    engine = start_engine(start_server(forbids_one))
    with pytest.raises(EngineError, match="status 403") as caught:
        engine.submit(prompt("script")).result(20)
    assert not isinstance(caught.value, EngineUnavailable)
    assert engine.submit(prompt("a question")).result(WAIT_S).text == "two"


def test_a_server_that_calls_a_request_bad_answers_again(
    start_server: StartServer, start_engine: StartEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    engine = start_engine(start_server(refuses(401), refuses(400)))
    with pytest.raises(InvalidJob):
        engine.submit(prompt()).result(WAIT_S)
    assert "answers again" in caplog.text


def test_prompts_do_not_wait_behind_one_that_avoids_the_free_server() -> None:
    async def first_served() -> tuple[str, str]:
        free, full, paused = (Server(ServerAddress(f"http://{name}"), 4, Silence(1, 1)) for name in "abc")
        line = Line([free, full])
        full.in_flight = 1
        avoiding = asyncio.create_task(line.place("bulk", {free}))
        await asyncio.sleep(0)
        behind = await asyncio.wait_for(line.place("bulk"), 1)
        line.leave(full)
        got = behind.address.base, (await asyncio.wait_for(avoiding, 1)).address.base
        # with all others paused, a place at one to avoid is better than none
        line.leave(full)
        paused.fail(Busy("429", 60))
        assert await asyncio.wait_for(Line([full, paused]).place("bulk", {full}), 1) is full
        for server in (free, full, paused):
            await server.close()
        return got

    assert asyncio.run(first_served()) == ("http://a", "http://b")


def test_a_silent_server_holds_up_neither_the_heartbeat_nor_others(
    start_server: StartServer, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_HEALTH_S", 0.1)

    async def is_silent(exchange: Exchange) -> None:
        await exchange.gone()

    server = start_server(streams("two"))
    engine = start_engine(server, hang_s=1.5)
    server.models = is_silent
    until = time.monotonic() + 3.5
    while time.monotonic() < until:
        assert engine.stall() is None
        time.sleep(0.05)


@pytest.mark.parametrize("status", [400, 404, 500])
def test_metrics_that_cannot_be_read_are_no_error(
    start_server: StartServer, start_engine: StartEngine, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    server = start_server(streams("two", "three", pause_s=0.7))
    engine = start_engine(server)
    server.metrics = refuses(status)
    assert engine.submit(prompt()).result(WAIT_S).text == "twothree"
    assert caplog.text == ""


_VLLM = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4900 in the messages)"
_VLLM_NEW = "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure that"
_SGLANG = (
    "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total of 5000"
)
_SGLANG_INPUT = "The input (5000 tokens) is longer than the model's context length (4096 tokens)."
_LLAMA = "the request exceeds the available context size. request (5000 tokens) exceeds the context size (4096 tokens)"
_OWN = "4900 prompt tokens and max_new_tokens=100 exceed the 4096 tokens of a slot (VQA_SLOT_TOKENS) by 904; VQA_SL"
_VLLM_ANSWER = "max_tokens=5000 cannot be greater than max_model_len=2048. Please request fewer output tokens."
_VLLM_AT_LEAST = (
    "This model's maximum context length is 4096 tokens. However, you requested 5000 output tokens and your prompt "
    "contains at least 4097 input tokens, for a total of at least 9097 tokens."
)
_SGLANG_IMAGES = (
    "Multimodal prompt is too long after expanding multimodal tokens. "
    "After expanding len(req.origin_input_ids_unpadded)=40 => 5000 >= 4096."
)
_DASHSCOPE = "Range of input length should be [1, 30720]"


@pytest.mark.parametrize(
    ("error", "excess"),
    [
        ({"message": _VLLM, "code": 400}, 904),
        ({"message": _VLLM_NEW, "code": 400}, 904),
        ({"message": _VLLM_ANSWER, "code": 400}, None),
        ({"message": _SGLANG, "code": 400}, 904),
        ({"message": _SGLANG_INPUT}, 904),
        ({"message": _LLAMA, "type": "exceed_context_size_error"}, 904),
        ({"message": _OWN, "code": "prompt_too_long"}, 904),
        ({"message": _VLLM_AT_LEAST, "code": 400}, None),
        ({"message": _SGLANG_IMAGES, "code": 400}, 904),
        ({"message": _DASHSCOPE, "code": "invalid_parameter_error"}, None),
        ({"message": "too long", "code": "context_length_exceeded"}, None),
    ],
    ids=[
        *("vllm", "vllm-new", "vllm-answer", "sglang", "sglang-input", "llama.cpp", "vqa"),
        *("vllm-at-least", "sglang-images", "dashscope", "openai"),
    ],
)
def test_a_prompt_that_is_too_long_says_by_how_much(error: Mapping[str, Any], excess: int | None) -> None:
    found = failure_of(400, [], json.dumps({"error": error}).encode())
    assert isinstance(found, PromptTooLong)
    assert (found.excess, found.limit) == (excess, excess and 4096)


def test_where_only_the_prompt_is_counted_its_answer_is_added() -> None:
    for message, excess in ((_VLLM_NEW, 1004), (_SGLANG_INPUT, 1004), (_SGLANG_IMAGES, 1004), (_VLLM, 904)):
        found = failure_of(400, [], json.dumps({"error": {"message": message}}).encode(), 100)
        assert isinstance(found, PromptTooLong)
        assert found.excess == excess


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (401, {}, Refusal),
        (403, {}, Forbidden),
        (403, {"code": "AccessDenied"}, Refusal),
        (404, {"message": "The model `x` does not exist."}, Refusal),
        (302, {}, Refusal),
        (400, {"code": "Arrearage"}, Refusal),
        (429, {"code": "insufficient_quota"}, Refusal),
        (429, {}, Busy),
        (503, {}, Busy),
        (500, {}, Broken),
        (408, {}, Broken),
        (413, {}, InvalidJob),
        (422, {}, InvalidJob),
    ],
    ids=[
        "key",
        "forbidden",
        "denied",
        "model",
        "redirect",
        "account",
        "quota",
        "429",
        "503",
        "500",
        "408",
        "413",
        "422",
    ],
)
def test_a_status_says_what_follows(status: int, error: Mapping[str, Any], kind: type[Exception]) -> None:
    assert type(failure_of(status, [], json.dumps({"error": error}).encode())) is kind


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'"a"', b'{"error":[]}', b"[" * 5000, b"\xff"], ids=range(7))
def test_any_body_of_an_error_is_read(body: bytes) -> None:
    assert isinstance(failure_of(400, [], body), VQAError)
    assert isinstance(failure_of(500, [], body), Broken)
    assert isinstance(failure_in_stream(body), Broken)


def test_an_engine_that_is_stopped_fails_its_prompts(start_server: StartServer, start_engine: StartEngine) -> None:
    engine: RemoteEngine = start_engine(start_server(hangs))
    future = engine.submit(prompt())
    engine.stop()
    with pytest.raises(EngineError, match="stopping"):
        future.result(1)
    with pytest.raises(EngineError, match="stopping"):
        engine.submit(prompt()).result(1)


def _wait(done: Any) -> None:
    until = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < until
        time.sleep(0.02)
