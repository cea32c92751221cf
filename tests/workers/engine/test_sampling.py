"""Penalties, log probabilities and checkpoints' own rules: both engines against `generate`, over the tiny model."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from tests.workers.engine.conftest import SOON, ask
from vqa.structured_output.grammar import one_of
from workers.engine.base import Completion, Engine, Prompt, SamplingParams
from workers.engine.continuous.engine import ContinuousEngine
from workers.engine.factory import choose_engine
from workers.engine.model.loading import load
from workers.engine.pipeline.encoding import Encoder
from workers.engine.pipeline.engine import PipelineEngine
from workers.engine.settings import EngineSettings

Kind = type[ContinuousEngine] | type[PipelineEngine]

KINDS: tuple[Kind, ...] = (ContinuousEngine, PipelineEngine)


def started(kind: Kind, model: Path, pipe: Any, slots: int = 6) -> Engine:
    given = EngineSettings(model=str(model), prefill_tokens=64, slot_tokens=1024)
    engine = kind(given, slots, load=lambda _: pipe)
    engine.start(lambda error, ids: None)
    return engine


@pytest.fixture(scope="module")
def pipe(dense_model: Path) -> Any:
    return load(EngineSettings(model=str(dense_model)))


@pytest.fixture(scope="module")
def both(dense_model: Path, pipe: Any) -> Iterator[tuple[Engine, ...]]:
    engines = tuple(started(kind, dense_model, pipe) for kind in KINDS)
    yield engines
    for engine in engines:
        engine.stop()


@pytest.fixture(params=range(len(KINDS)), ids=["continuous", "pipeline"])
def engine(request: pytest.FixtureRequest, both: tuple[Engine, ...]) -> Engine:
    return both[request.param]


def answers(engine: Engine, prompts: list[Prompt]) -> list[Completion]:
    """Submitted at once."""
    return [future.result(SOON) for future in [engine.submit(prompt) for prompt in prompts]]


class Plain(LogitsProcessor):
    """The penalties, token by token as their documentation says it, of one row."""

    def __init__(self, params: SamplingParams, prompt: list[int]) -> None:
        self._params = params
        self._prompt = prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        params, answer = self._params, Counter(input_ids[0, len(self._prompt) :].tolist())
        logits = scores[0].tolist()
        for token in {*self._prompt, *answer}:
            penalty = params.repetition_penalty or 1.0
            logits[token] = logits[token] * penalty if logits[token] < 0 else logits[token] / penalty
        for token, count in answer.items():
            logits[token] -= params.presence_penalty + count * params.frequency_penalty
        return torch.tensor([logits])


@torch.inference_mode()
def generated(pipe: Any, prompt: Prompt) -> tuple[list[int], Tensor]:
    """What `generate` makes of a greedy prompt alone: tokens, and the log probabilities (tokens, vocabulary)."""
    inputs = dict(Encoder(pipe, slot_tokens=4096).encode(prompt).tensors)
    ids = inputs["input_ids"][0].tolist()
    made = pipe.model.generate(
        **inputs,
        max_new_tokens=prompt.params.max_new_tokens,
        do_sample=False,
        logits_processor=LogitsProcessorList([Plain(prompt.params, ids)]),
        output_logits=True,
        return_dict_in_generate=True,
    )
    return made.sequences[0, len(ids) :].tolist(), torch.cat(made.logits).float().log_softmax(-1)


penalties = st.fixed_dictionaries(
    {},
    optional={
        "repetition_penalty": st.floats(0.6, 3),
        "presence_penalty": st.floats(-2, 2),
        "frequency_penalty": st.floats(-2, 2),
    },
)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(st.tuples(penalties, st.integers(0, 5)), min_size=1, max_size=4), st.integers(0, 50))
def test_penalized_answers_and_their_log_probabilities_are_those_of_generate(
    both: tuple[Engine, ...], pipe: Any, some: list[tuple[dict[str, float], int]], first: int
) -> None:
    prompts = [
        ask(first + number, logprobs=True, top_logprobs=top, **penalty) for number, (penalty, top) in enumerate(some)
    ]
    expected = [generated(pipe, prompt) for prompt in prompts]

    for engine in both:
        for prompt, completion, (tokens, logprobs) in zip(prompts, answers(engine, prompts), expected, strict=True):
            assert completion.completion_tokens == len(tokens)
            text = [each for each in tokens if each not in pipe.tokenizer.all_special_ids]
            assert [each.token for each in completion.logprobs] == text
            places = [place for place, token in enumerate(tokens) if token in text]
            for place, each in zip(places, completion.logprobs, strict=True):
                assert each.logprob == pytest.approx(logprobs[place, each.token].item(), abs=1e-4)
                likeliest = logprobs[place].topk(prompt.params.top_logprobs).values
                assert [other.logprob for other in each.top] == pytest.approx(likeliest.tolist(), abs=1e-4)
            total = sum(logprobs[place, token].item() for place, token in enumerate(tokens))
            assert completion.total_logprob == pytest.approx(total, abs=1e-3)


def test_the_tokens_of_an_answer_are_its_text(engine: Engine) -> None:
    (completion,) = answers(engine, [ask(logprobs=True, max_new_tokens=40)])

    assert b"".join(each.text for each in completion.logprobs).decode(errors="replace") == completion.text
    assert all(each.top == () for each in completion.logprobs)


def test_a_prompt_that_does_not_ask_gets_no_log_probabilities(engine: Engine) -> None:
    first, second = answers(engine, [ask(), ask(1, logprobs=True)])

    assert (first.logprobs, first.total_logprob) == ((), None)
    assert second.logprobs


def test_an_answer_by_a_grammar_has_the_probabilities_of_the_model_itself(engine: Engine) -> None:
    grammar = one_of(("apples", "pears"))
    (completion,) = answers(engine, [ask(grammar=grammar, logprobs=True, top_logprobs=20)])

    assert b"".join(each.text for each in completion.logprobs).decode() == completion.text
    first = completion.logprobs[0]
    # the mask is not in them: other tokens have their share, and the likeliest need not be allowed
    assert first.top[0].logprob >= first.logprob
    assert {each.text for each in first.top} - {b"a", b"p"}


def test_a_stop_string_cuts_log_probabilities_with_the_text(engine: Engine) -> None:
    (whole,) = answers(engine, [ask(logprobs=True, max_new_tokens=30)])
    stop = whole.text[5:7]

    (cut,) = answers(engine, [ask(logprobs=True, max_new_tokens=30, stop=(stop,))])

    assert cut.text == whole.text[: whole.text.index(stop)]
    assert b"".join(each.text for each in cut.logprobs).decode(errors="replace") == cut.text


def test_top_k_of_one_is_greedy_and_a_min_p_of_one_too(engine: Engine) -> None:
    (greedy,) = answers(engine, [ask()])

    for params in ({"top_k": 1}, {"min_p": 1.0}):
        (sampled,) = answers(engine, [ask(temperature=1.5, **params)])
        assert sampled.text == greedy.text


def test_a_seed_gives_the_same_answer_in_any_company(both: tuple[Engine, ...]) -> None:
    engine = both[0]
    how = {"temperature": 1.0, "seed": 7, "top_k": 30, "min_p": 0.01, "presence_penalty": 0.5}
    (alone,) = answers(engine, [ask(**how)])
    others = [ask(number, temperature=1.2, top_k=10 * number, frequency_penalty=0.1 * number) for number in (1, 2, 20)]

    assert answers(engine, [ask(**how), *others])[0].text == alone.text


@pytest.mark.parametrize(
    "rules",
    [
        {"repetition_penalty": 1.3},
        {"suppress_tokens": [40, 41, 42, 43, 44, 100, 101]},
        {"begin_suppress_tokens": list(range(7, 150))},
        {"bad_words_ids": [[number] for number in range(50, 250, 3)]},
    ],
    ids=["repetition", "suppressed", "suppressed-first", "bad-words"],
)
def test_greedy_answers_heed_the_checkpoints_own_rules(
    dense_model: Path, tmp_path: Path, rules: dict[str, Any]
) -> None:
    model = shutil.copytree(dense_model, tmp_path / "model")
    file = model / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | rules))
    pipe = load(EngineSettings(model=str(model)))
    prompts = [ask(number) for number in range(3)]
    expected = [generated(pipe, prompt)[0] for prompt in prompts]
    assert choose_engine(EngineSettings(model=str(model)), 0)[0].engine == "continuous"

    for kind in KINDS:
        engine = started(kind, model, pipe)
        try:
            texts = [completion.text for completion in answers(engine, prompts)]
        finally:
            engine.stop()
        assert texts == [pipe.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in expected]


def test_a_prompt_has_another_repetition_penalty_than_its_checkpoint(
    dense_model: Path, tmp_path: Path, pipe: Any
) -> None:
    model = shutil.copytree(dense_model, tmp_path / "model")
    file = model / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"repetition_penalty": 1.3}))
    penalized = load(EngineSettings(model=str(model)))
    prompt = ask(repetition_penalty=1.0)
    (tokens, _) = generated(pipe, prompt)

    for kind in KINDS:
        engine = started(kind, model, penalized)
        try:
            (completion,) = answers(engine, [prompt])
        finally:
            engine.stop()
        assert completion.text == pipe.tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("kind", KINDS, ids=["continuous", "pipeline"])
def test_a_suppressed_token_is_chosen_where_nothing_else_is_allowed(kind: Kind, dense_model: Path) -> None:
    pipe: Any = load(EngineSettings(model=str(dense_model)))
    pipe.model.generation_config.suppress_tokens = [pipe.tokenizer.convert_tokens_to_ids("c")]
    engine = started(kind, dense_model, pipe)
    how: list[dict[str, Any]] = [
        {"grammar": one_of(["cat"])},
        {"grammar": one_of(["cat"]), "temperature": 1.0},
        {"grammar": one_of(["cat", "dog"])},
        {"choices": ("cat", "dog")},
    ]
    try:
        *made, scored = answers(engine, [ask(number, **each) for number, each in enumerate(how)])
    finally:
        engine.stop()
    assert [each.text for each in made] == ["cat", "cat", "dog"]
    assert scored.choices == {"cat": 0.0, "dog": 1.0}
