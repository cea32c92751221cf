"""Probabilities of choices and several answers, by both engines over the tiny models in float32."""

from __future__ import annotations

import math
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
from vqa.errors import AnswerTooLong, Cancelled, DeadlineExceeded
from workers.engine.base import Completion, Engine, Prompt
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
        # an answer's tokens are those of its text alone; of special tokens only the last one is there
        tokenizer = self.pipe.tokenizer
        own = [*tokenizer(choice, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        encoded = self._encoder.encode(prompt)
        inputs = dict(encoded.tensors)
        for name, rest in (("input_ids", own), ("attention_mask", [1] * len(own)), ("mm_token_type_ids", [0] * len(own))):
            if name in inputs:
                inputs[name] = torch.cat([inputs[name], torch.tensor([rest], dtype=inputs[name].dtype)], dim=1)
        logits = self.pipe.model(**inputs).logits[0, -len(own) - 1 : -1].float()
        return float(logits.log_softmax(-1).gather(1, torch.tensor(own)[:, None]).double().sum())

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


#: one the beginning of another, others that share theirs, of one token and of several bytes a character
WORDS = ("cat", "cat s", "cats", "a", "ab", "no", "none", "猫", "猫🐈", "naïve", "<|im_end|>", "bottom left", "\n")


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
    if any("<|" in choice for choice in choices):
        choices = [choice for choice in choices if "<|" not in choice] or ["cat"]
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
