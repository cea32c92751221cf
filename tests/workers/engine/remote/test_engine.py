"""The engine before servers that answer well."""

import base64
import io
import time
from typing import Any

import pytest
from PIL import Image

from tests.workers.engine.remote.chat_server import MODEL, Exchange, Paced, delta, streams
from tests.workers.engine.remote.conftest import StartEngine, StartServer, prompt
from vqa.errors import AnswerTooLong, Cancelled, DeadlineExceeded, InvalidJob, NotReady
from vqa.structured_output.grammar import json_grammar, one_of
from workers.engine.image import RGBImage
from workers.engine.video import Video

WAIT_S = 10

RED = RGBImage.from_pil(Image.new("RGB", (64, 32), "red"))

SCHEMA = '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"],"additionalProperties":false}'


def test_pieces_come_in_order_and_make_the_text(start_server: StartServer, start_engine: StartEngine) -> None:
    engine, pieces = start_engine(start_server(streams("two ", "red ", "circles"))), list[str]()
    answer = engine.submit(prompt(on_text=pieces.append)).result(WAIT_S)
    assert pieces == ["two ", "red ", "circles"]
    assert (answer.text, answer.finish_reason) == ("two red circles", "stop")
    assert (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens) == (7, 3, 3)


def test_the_model_is_the_one_that_is_served(start_server: StartServer, start_engine: StartEngine) -> None:
    server = start_server(streams("a"))
    assert start_engine(server).model == MODEL
    assert start_engine(server, model=MODEL).model == MODEL
    with pytest.raises(NotReady, match=f"serves another .VQA_MODEL., but: {MODEL}"):
        start_engine(server, model="another")
    with pytest.raises(NotReady, match=r"serve 2 models \(a, b\): name one with VQA_MODEL"):
        start_engine(start_server(streams("a"), models=("a", "b")))


def test_an_image_arrives_as_a_data_url(start_server: StartServer, start_engine: StartEngine) -> None:
    server = start_server(streams("red"))
    start_engine(server).submit(prompt(RED, "which colour?")).result(WAIT_S)
    [shown, asked] = server.bodies[0]["messages"][0]["content"]
    kind, _, data = shown["image_url"]["url"].partition(",")
    with Image.open(io.BytesIO(base64.b64decode(data))) as seen:
        pixel: Any = seen.convert("RGB").getpixel((30, 10))
        assert (kind, seen.size) == ("data:image/jpeg;base64", (64, 32))
    assert max(abs(value - wanted) for value, wanted in zip(pixel, (255, 0, 0), strict=True)) <= 3
    assert asked == {"type": "text", "text": "which colour?"}


def test_sampling_is_said_in_full_and_greedy_prompts_say_no_more_than_needed(
    start_server: StartServer, start_engine: StartEngine
) -> None:
    server = start_server(streams("a"))
    engine = start_engine(server)
    drawn = {"temperature": 0.5, "seed": 3, "stop": ("x",), "presence_penalty": 0.5, "repetition_penalty": 1.1}
    for params in ({}, drawn, {"temperature": 1.0, "top_k": 4, "top_p": 0.9, "min_p": 0.1, "cache_salt": "tenant"}):
        engine.submit(prompt(**params)).result(WAIT_S)
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    sent = [{name: each[name] for name in each if name not in {"messages", "model"}} for each in server.bodies]
    every = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}
    assert sent[0] == {"max_tokens": 16, "temperature": 0.0, **stream}
    assert sent[1] == {"max_tokens": 16, **drawn, "stop": ["x"], **every, **stream}
    few = {"top_k": 4, "top_p": 0.9, "min_p": 0.1}
    assert sent[2] == {"max_tokens": 16, "temperature": 1.0, **few, "cache_salt": "tenant", **stream}


def test_the_key_is_sent(start_server: StartServer, start_engine: StartEngine) -> None:
    server = start_server(streams("a"))
    start_engine(server, key="k1").submit(prompt()).result(WAIT_S)
    assert "authorization: bearer k1" in server.headers[0].lower()


def test_log_probabilities_and_further_answers_are_read(start_server: StartServer, start_engine: StartEngine) -> None:
    token = {"token": "yes", "logprob": -0.5, "bytes": [121, 101, 115], "top_logprobs": []}
    first = delta("yes", finish="stop")
    first["choices"][0]["logprobs"] = {"content": [{**token, "top_logprobs": [token]}]}
    server = start_server(streams(chunks=[delta("n", index=1), first, delta("o", finish="length", index=1)]))
    asked = prompt(n=2, logprobs=True, top_logprobs=1, temperature=1.0)
    answer = start_engine(server).submit(asked).result(WAIT_S)
    [other] = answer.alternatives
    assert (answer.text, other.text, other.finish_reason) == ("yes", "no", "length")
    [found] = answer.logprobs
    assert (found.text, found.logprob, found.top[0].text) == (b"yes", -0.5, b"yes")
    assert (server.bodies[0]["n"], server.bodies[0]["top_logprobs"]) == (2, 1)


def test_a_thought_is_passed_on_and_gets_room_once_it_is_known(
    start_server: StartServer, start_engine: StartEngine
) -> None:
    cut = streams(chunks=[delta(reasoning_content="hm"), delta(finish="length")])
    whole = streams(chunks=[delta(reasoning="hm "), delta(reasoning="so"), delta("two"), delta(finish="stop")])
    server = start_server(cut, whole)
    engine, pieces = start_engine(server, max_reasoning_tokens=100), list[str]()
    answer = engine.submit(prompt(on_text=pieces.append)).result(WAIT_S)
    assert (answer.text, answer.reasoning, pieces) == ("two", "hm so", ["two"])
    engine.submit(prompt(max_reasoning_tokens=5)).result(WAIT_S)
    assert [body["max_tokens"] for body in server.bodies] == [16, 116, 21]


@pytest.mark.parametrize(
    ("grammar", "said", "text", "kind"),
    [
        (json_grammar(SCHEMA), '{"a": 1}', '{"a": 1}', "json_schema"),
        (json_grammar('{"type":"object"}'), '{"b":[]}', '{"b":[]}', "json_object"),
        (one_of(["yes", 'a "no"']), '"a \\"no\\""', 'a "no"', "json_schema"),
    ],
    ids=["schema", "object", "choice"],
)
def test_structured_answers_are_asked_for_by_schema(
    start_server: StartServer, start_engine: StartEngine, grammar: str, said: str, text: str, kind: str
) -> None:
    server, pieces = start_server(streams(*said)), list[str]()
    asked = prompt(grammar=grammar, on_text=pieces.append)
    assert start_engine(server).submit(asked).result(WAIT_S).text == text
    assert "".join(pieces) == text
    assert server.bodies[0]["response_format"]["type"] == kind


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        (json_grammar(SCHEMA), "well, a"),
        (json_grammar(SCHEMA), '{"a": "b"}'),
        (json_grammar('{"type":"object"}'), "[]"),
        (one_of(["yes"]), '"no"'),
    ],
    ids=["no-json", "not-by-schema", "no-object", "no-choice"],
)
def test_an_answer_out_of_format_is_never_passed_on(
    start_server: StartServer, start_engine: StartEngine, grammar: str, said: str
) -> None:
    engine, pieces = start_engine(start_server(streams(said))), list[str]()
    with pytest.raises(InvalidJob, match="did not keep to the response format"):
        engine.submit(prompt(grammar=grammar, on_text=pieces.append)).result(WAIT_S)
    assert pieces == []


def test_a_structured_answer_that_is_cut_is_too_long(start_server: StartServer, start_engine: StartEngine) -> None:
    server = start_server(streams(chunks=[delta('{"a": 1', finish="length")]))
    with pytest.raises(AnswerTooLong, match="max_new_tokens=16"):
        start_engine(server).submit(prompt(grammar=json_grammar(SCHEMA))).result(WAIT_S)


def test_what_no_server_can_do_is_refused_before_it_is_sent(
    start_server: StartServer, start_engine: StartEngine
) -> None:
    server = start_server(streams("a"))
    engine = start_engine(server)
    for asked in (prompt(choices=("a", "b")), prompt(Video((RED, RED), (0.0, 0.5)), "what happens?")):
        with pytest.raises(InvalidJob, match=r"probabilities|videos"):
            engine.submit(asked).result(WAIT_S)
    assert server.bodies == []
    assert engine.video_fit is None


def test_a_completion_that_is_not_streamed_is_read_too(start_server: StartServer, start_engine: StartEngine) -> None:
    async def whole(exchange: Exchange) -> None:
        choice = {"index": 0, "message": {"content": "two"}, "finish_reason": "stop"}
        await exchange.respond(200, {"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})

    server = start_server(whole, owner="vqa")
    assert start_engine(server).submit(prompt(logprobs=True)).result(WAIT_S).text == "two"
    # this project's gateway streams no log probabilities
    assert "stream" not in server.bodies[0]
    assert server.bodies[0]["max_reasoning_tokens"] == 2048


def test_counts_that_are_not_told_are_none(start_server: StartServer, start_engine: StartEngine) -> None:
    async def counts_nothing(exchange: Exchange) -> None:
        choice = {"index": 0, "message": {"content": "two"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": None, "completion_tokens": None, "prompt_tokens_details": None}
        await exchange.respond(200, {"choices": [choice], "usage": usage})

    answer = start_engine(start_server(counts_nothing)).submit(prompt()).result(WAIT_S)
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == ("two", 0, 0)


def test_a_connection_is_used_for_one_request_after_the_other(
    start_server: StartServer, start_engine: StartEngine
) -> None:
    server = start_server(streams("a"))
    engine = start_engine(server)
    for n in range(20):
        engine.submit(prompt(id=str(n))).result(WAIT_S)
    # one more may be for the metrics
    assert server.connections <= 2


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_an_end_closes_the_connection_within_a_second(
    start_server: StartServer, start_engine: StartEngine, how: str
) -> None:
    began, gone = list[float](), list[float]()

    async def slow(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.send(delta("two"))
        began.append(time.monotonic())
        await exchange.gone()
        gone.append(time.monotonic())

    engine = start_engine(start_server(slow))
    deadline = time.monotonic() + (0.3 if how == "deadline" else 100)
    future = engine.submit(prompt(id="j", deadline=deadline))
    until = time.monotonic() + WAIT_S
    while not began:
        assert time.monotonic() < until
        time.sleep(0.01)
    if how == "cancel":
        engine.cancel("j")
    with pytest.raises(Cancelled if how == "cancel" else DeadlineExceeded):
        future.result(1)
    while not gone:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert gone[0] - began[0] < 1.0


def test_a_prompt_that_ends_while_it_waits_for_a_place_is_never_sent(
    start_server: StartServer, start_engine: StartEngine
) -> None:
    server = start_server(streams("a", pause_s=0.1))
    engine = start_engine(server, slots=1)
    first = engine.submit(prompt(id="first"))
    second = engine.submit(prompt(id="second"))
    third = engine.submit(prompt(id="third"))
    engine.cancel("second")
    assert first.result(WAIT_S).text == third.result(WAIT_S).text == "a"
    with pytest.raises(Cancelled):
        second.result(0)
    assert len(server.bodies) == 2


def test_interactive_prompts_pass_bulk_ones_that_wait(start_server: StartServer, start_engine: StartEngine) -> None:
    server = start_server(streams("a", pause_s=0.02))
    engine = start_engine(server, slots=1)
    futures = [engine.submit(prompt(f"bulk {n}", id=f"b{n}", lane="bulk")) for n in range(4)]
    futures.append(engine.submit(prompt("interactive", id="i")))
    for future in futures:
        future.result(WAIT_S)
    asked = [body["messages"][0]["content"] for body in server.bodies]
    # the first bulk prompt was under way already
    assert asked == ["bulk 0", "interactive", "bulk 1", "bulk 2", "bulk 3"]


def test_the_window_grows_to_what_a_server_can_do_and_not_far_beyond(
    start_server: StartServer, start_engine: StartEngine
) -> None:
    paced = Paced(places=6, pieces=2, pause_s=0.03)
    engine = start_engine(start_server(paced.chat), slots=64)
    futures = [engine.submit(prompt(id=str(n))) for n in range(150)]
    for future in futures:
        assert future.result(30).text == "aa"
    # the slow start doubles it once too often; all at once would have been 64
    assert 4 <= engine.places <= 12
    assert 6 <= paced.most <= 20


def test_a_hung_event_loop_is_a_stall(start_server: StartServer, start_engine: StartEngine) -> None:
    def hang(piece: str) -> None:
        time.sleep(1.5)

    engine = start_engine(start_server(streams("a")), hang_s=0.3)
    assert engine.stall() is None
    future = engine.submit(prompt(on_text=hang))
    until = time.monotonic() + WAIT_S
    while engine.stall() is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    future.result(WAIT_S)


def test_a_body_holds_json_that_any_server_reads(start_server: StartServer, start_engine: StartEngine) -> None:
    async def echo(exchange: Exchange) -> None:
        await streams(exchange.body["messages"][0]["content"])(exchange)

    text = 'what is "this"? \\ 圆 \u2028 \U0001f534'
    assert start_engine(start_server(echo)).submit(prompt(text)).result(WAIT_S).text == text
