"""Probabilities of choices and several answers, by both engines over the tiny models in float32."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker_process import TINY
from tests.workers.engine.conftest import SOON, ask, ask_about
from training.questions import held_out
from vqa.errors import AnswerTooLong, Cancelled, DeadlineExceeded, EngineError
from workers.engine.base import Completion, Engine, Prompt
from workers.engine.continuous.build import BLOCK_SIZE
from workers.engine.continuous.engine import ContinuousEngine
from workers.engine.model.loading import load
from workers.engine.pipeline.encoding import Encoder
from workers.engine.pipeline.engine import PipelineEngine
from workers.engine.settings import EngineSettings

KINDS = (ContinuousEngine, PipelineEngine)


class Teacher:
    """A model that reads what it is to answer: the log probability of each choice, by one forward pass for each."""

    def __init__(self, model: Path) -> None:
        self.pipe: Any = load(EngineSettings(model=str(model)))
        self._encoder = Encoder(self.pipe, slot_tokens=4096)

    @torch.inference_mode()
    def score(self, prompt: Prompt, choice: str) -> float:
        # an answer's tokens are those of its text alone, in which a special token is none
        parts = choice.partition("<|")
        own = [id for part in (parts[0] + parts[1][:1], parts[1][1:] + parts[2]) for id in self._ids(part)]
        own.append(self.pipe.tokenizer.eos_token_id)
        inputs = dict(self._encoder.encode(prompt).tensors)
        rest = {"input_ids": own, "attention_mask": [1] * len(own), "mm_token_type_ids": [0] * len(own)}
        for name in rest.keys() & inputs.keys():
            more = torch.tensor([rest[name]], dtype=inputs[name].dtype)
            inputs[name] = torch.cat([inputs[name], more], dim=1)
        logits = self.pipe.model(**inputs).logits[0, -len(own) - 1 : -1].float()
        return float(logits.log_softmax(-1).gather(1, torch.tensor(own)[:, None]).double().sum())

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.pipe.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def probabilities(self, prompt: Prompt, choices: tuple[str, ...]) -> dict[str, float]:
        scores = torch.tensor([self.score(prompt, choice) for choice in choices], dtype=torch.float64)
        return dict(zip(choices, scores.softmax(0).tolist(), strict=True))


def scored(prompt: Prompt, choices: tuple[str, ...], **params: Any) -> Prompt:
    return replace(prompt, params=replace(prompt.params, choices=choices, **params))


def started(kind: Any, model: Path) -> Engine:
    # a budget of few tokens splits prompts
    engine: Engine = kind(EngineSettings(model=str(model), prefill_tokens=64, slot_tokens=4096), 6)
    engine.start(lambda error, ids: None)
    return engine


@pytest.fixture(scope="module", params=KINDS, ids=["continuous", "pipeline"])
def engine(request: pytest.FixtureRequest, dense_model: Path) -> Iterator[Engine]:
    engine = started(request.param, dense_model)
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def teacher(dense_model: Path) -> Teacher:
    return Teacher(dense_model)


def answer(engine: Engine, prompt: Prompt) -> Completion:
    return engine.submit(prompt).result(SOON)


#: a normalizing tokenizer makes twice as many bytes of this letter (NFC of U+0958)
LONGER = "\u0958"

#: one the beginning of another, others that share theirs, of one token and of several bytes a character
WORDS = (
    "cat",
    "cat s",
    "cats",
    "a",
    "ab",
    "no",
    "none",
    "猫",
    "猫🐈",
    "naïve",
    "<|im_end|>",
    "bottom left",
    "\n",
    LONGER,
)


@given(
    number=st.integers(0, 3),
    choices=st.lists(st.sampled_from(WORDS) | st.text(min_size=1, max_size=4), min_size=1, max_size=6, unique=True),
    draw=st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=12)
def test_probabilities_are_those_of_a_forward_pass_of_each_choice(
    engine: Engine, teacher: Teacher, number: int, choices: list[str], draw: Any
) -> None:
    prompt = ask(number, max_new_tokens=64)
    expected = teacher.probabilities(prompt, tuple(choices))

    made = answer(engine, scored(prompt, tuple(choices)))

    assert made.choices is not None
    assert {choice: made.choices[choice] for choice in choices} == pytest.approx(expected, abs=1e-4)
    assert list(made.choices) == choices
    assert math.fsum(made.choices.values()) == pytest.approx(1, abs=1e-12)
    assert made.choices[made.text] == max(made.choices.values())
    assert (made.finish_reason, made.logprobs) == ("stop", ())

    draw.shuffle(choices)
    again = answer(engine, scored(prompt, tuple(choices)))
    assert again.choices == pytest.approx(made.choices, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=["continuous", "pipeline"])
def test_a_trained_model_is_sure_of_what_it_answers(kind: Any) -> None:
    teacher, engine = Teacher(TINY), started(kind, TINY)
    try:
        assert engine.fit is not None
        for number, item in enumerate(held_out(3)):
            image = item.image.resize(engine.fit.size(*item.image.size))
            prompt = ask_about(replace(item, image=image), f"q{number}")
            choices = tuple(dict.fromkeys((item.answer, "yes", "no", "red", "circle", "top left")))
            made = answer(engine, scored(prompt, choices))
            assert made.choices == pytest.approx(teacher.probabilities(prompt, choices), abs=1e-4)
            assert made.text == answer(engine, prompt).text
    finally:
        engine.stop()


@pytest.mark.parametrize("kind", KINDS, ids=["continuous", "pipeline"])
def test_logits_that_are_no_numbers_make_no_choice_likely(kind: Any, dense_model: Path) -> None:
    pipe: Any = load(EngineSettings(model=str(dense_model)))
    engine = kind(EngineSettings(model=str(dense_model), slot_tokens=1024), 4, load=lambda _: pipe)
    engine.start(lambda error, ids: None)
    pipe.model.lm_head.weight.data.fill_(math.nan)
    try:
        with pytest.raises(EngineError, match="no probability"):
            answer(engine, scored(ask(), ("no", "none")))
    finally:
        engine.stop()


def test_a_choice_alone_is_certain(engine: Engine) -> None:
    made = answer(engine, scored(ask(), ("<|im_end|>",), temperature=2.0, seed=1))

    assert (made.text, made.choices) == ("<|im_end|>", {"<|im_end|>": 1.0})


def test_the_tokens_of_all_choices_and_ends_are_counted(engine: Engine) -> None:
    prompt = ask()
    made = answer(engine, scored(prompt, ("a", "bc"), logprobs=True, top_logprobs=3))
    plain = answer(engine, prompt)

    assert (made.prompt_tokens, made.completion_tokens) == (plain.prompt_tokens, 5)
    assert b"".join(token.text for token in made.logprobs) == made.text.encode()
    assert [len(token.top) for token in made.logprobs] == [3] * len(made.text)
    assert made.image_sizes == plain.image_sizes


def test_a_choice_that_exceeds_the_answers_length_is_an_error_by_name(engine: Engine) -> None:
    fits = answer(engine, scored(ask(max_new_tokens=3), ("abc",)))
    assert fits.text == "abc"

    with pytest.raises(AnswerTooLong, match="max_new_tokens"):
        answer(engine, scored(ask(max_new_tokens=3), ("abc", "abcd")))


def test_a_choice_may_have_more_tokens_than_bytes(engine: Engine) -> None:
    made = answer(engine, scored(ask(max_new_tokens=6), (LONGER, "cat")))

    assert made.choices is not None
    assert made.completion_tokens == 6 + 1 + 3 + 1


def test_choices_leave_others_as_they_are(engine: Engine) -> None:
    others = [ask(number, max_new_tokens=30) for number in range(3)]
    alone = [answer(engine, prompt) for prompt in others]
    choices = tuple(f"choice {number}" for number in range(40))

    futures = [engine.submit(prompt) for prompt in (scored(ask(3), choices), *others)]
    made, *rest = [future.result(SOON) for future in futures]

    assert made.choices is not None
    assert list(made.choices) == list(choices)
    assert [replace(each, cached_tokens=0) for each in rest] == [replace(each, cached_tokens=0) for each in alone]


def test_the_prompt_of_many_choices_is_computed_once(dense_model: Path) -> None:
    engine = started(ContinuousEngine, dense_model)
    try:
        prompt = ask(0, question="which of them? " * 20)
        tokens = answer(engine, prompt).prompt_tokens
        before = engine.stats()
        answer(engine, scored(replace(prompt, cache_salt="other"), tuple("abcdefghijkl")))
        computed = engine.stats().prompt_tokens - before.prompt_tokens
        # and of each choice what follows the last whole block
        assert tokens <= computed <= tokens + 11 * BLOCK_SIZE["cpu"]
    finally:
        engine.stop()


def test_several_answers_are_those_of_their_seeds(engine: Engine) -> None:
    how = {"temperature": 1.5, "max_new_tokens": 12}
    alone = [answer(engine, ask(0, seed=7 + number, **how)) for number in range(4)]
    several = ask(0, seed=7, **how)
    made = answer(engine, replace(several, params=replace(several.params, n=4)))

    assert [each.text for each in (made, *made.alternatives)] == [each.text for each in alone]
    assert len({each.text for each in alone}) > 1
    assert made.prompt_tokens == alone[0].prompt_tokens
    assert made.completion_tokens == sum(each.completion_tokens for each in alone)


def test_answers_without_a_seed_differ(engine: Engine) -> None:
    prompt = ask(0, temperature=2.0, max_new_tokens=20)
    made = answer(engine, replace(prompt, params=replace(prompt.params, n=5)))

    assert len({each.text for each in (made, *made.alternatives)}) == 5


@pytest.mark.parametrize("alone", [False, True], ids=["together", "alone"])
def test_a_cancelled_prompt_of_several_answers_stops_all(engine: Engine, alone: bool) -> None:
    prompt = ask(0, max_new_tokens=3000, temperature=1.0, alone=alone)
    future = engine.submit(replace(prompt, params=replace(prompt.params, n=8)))
    engine.cancel(prompt.id)

    with pytest.raises(Cancelled):
        future.result(SOON)
    assert answer(engine, ask(1)).text == answer(engine, ask(1)).text


def test_a_deadline_ends_all_choices(engine: Engine) -> None:
    prompt = scored(ask(0, deadline=time.monotonic() + 0.3), tuple(f"{n} " * 500 + "." for n in range(900)))

    with pytest.raises(DeadlineExceeded):
        answer(engine, replace(prompt, params=replace(prompt.params, max_new_tokens=3000)))


def test_choices_are_scored_one_by_one_for_a_prompt_that_must_be_alone(engine: Engine) -> None:
    together = answer(engine, scored(ask(0), WORDS))
    alone = answer(engine, scored(ask(0, alone=True), WORDS))

    assert alone.choices == pytest.approx(together.choices, abs=1e-5)
