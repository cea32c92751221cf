"""The bundled model answers in a process of its own as it does in this one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from tests.worker_process import TINY
from tests.workers.engine.conftest import SOON, ask_about
from training.questions import held_out
from vqa.errors import PromptTooLong
from workers.engine.base import Engine, Prompt, Turn
from workers.engine.factory import choose_engine, make_engine
from workers.engine.process.engine import EngineProcess
from workers.engine.settings import EngineSettings
from workers.engine.video import Video

Both = tuple[Engine, Engine]


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    """The continuous engine in this process and in one of its own."""
    settings, _ = choose_engine(EngineSettings(model=str(TINY), slot_tokens=256, prefix_cache=False), cards=0)
    # sums are rounded alike if prompts are computed one by one and whole
    engines: Both = make_engine(settings, 1), EngineProcess(settings, 1)
    with ExitStack() as started:
        for engine in engines:
            engine.start(lambda error, ids: pytest.fail(f"the engine crashed: {error!r}"))
            started.callback(engine.stop)
        yield engines


def asked(number: int, **params: Any) -> Prompt:
    item = list(held_out(number + 1))[number]
    # a size that the model sees as it is
    prompt = ask_about(replace(item, image=item.image.resize((96, 64 + number % 2 * 32))), f"job-{number}")
    return replace(prompt, params=replace(prompt.params, **params))


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"logprobs": True, "top_logprobs": 3},
        {"n": 3, "temperature": 1.5, "seed": 7, "logprobs": True},
        {"choices": ("red", "blue", "a circle")},
        {"stop": ("e",), "max_new_tokens": 30},
        {"temperature": 2.0, "top_k": 20, "min_p": 0.01, "seed": 3, "presence_penalty": 0.5, "max_new_tokens": 30},
        {"forced": "green", "logprobs": True},
    ],
    ids=["greedy", "logprobs", "several", "choices", "stop", "drawn", "forced"],
)
def test_answers_are_the_same(both: Both, params: dict[str, Any]) -> None:
    here, there = (engine.submit(asked(1, **params)).result(SOON) for engine in both)
    assert here == there


def test_what_the_model_sees_is_said_alike(both: Both) -> None:
    here, there = both
    assert (here.model, here.fit, here.video_fit) == (there.model, there.fit, there.video_fit)


def test_streamed_pieces_are_the_text(both: Both) -> None:
    for engine in both:
        pieces = list[str]()
        prompt = replace(asked(2, forced="a red circle"), on_text=pieces.append)
        text = engine.submit(prompt).result(SOON).text
        assert "".join(pieces) == text
        assert len(pieces) > 1


def test_many_at_once_are_answered_as_one_after_another(both: Both) -> None:
    here, there = both
    prompts = [asked(number) for number in range(24)]
    with ThreadPoolExecutor(12) as threads:
        texts = list(threads.map(lambda prompt: there.submit(prompt).result(SOON).text, prompts))
    assert texts == [here.submit(prompt).result(SOON).text for prompt in prompts]


def test_a_video_is_seen_alike(both: Both) -> None:
    [image] = asked(0).images
    turns = (Turn("user", (Video((image, image), (0.0, 0.5)), "what is it?")),)
    here, there = (engine.submit(replace(asked(0), turns=turns)).result(SOON) for engine in both)
    assert here == there


def test_a_prompt_that_is_too_long_says_by_how_much(both: Both) -> None:
    turns = (Turn("user", ("word " * 1000,)),)
    raised = [engine.submit(replace(asked(0), turns=turns)).exception(SOON) for engine in both]
    told = [(str(error), error.excess, error.limit) for error in raised if isinstance(error, PromptTooLong)]
    assert told[0] == told[1]
    assert told[0][1]
