"""Answers in a response format, by both engines over the tiny model: nothing learnt, so nothing but the guide helps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.utils import GenerationMixin

from tests.schemas import WORDS, Schema, schemas
from tests.worker_process import TINY
from tests.workers.engine.conftest import SOON, ask, ask_about, guided
from training.questions import held_out
from vqa.errors import AnswerTooLong, EngineError, InvalidJob
from vqa.jobs.job import Job
from vqa.structured_output.grammar import json_grammar, one_of
from workers.engine.base import Completion, Engine, Prompt
from workers.engine.continuous.engine import ContinuousEngine
from workers.engine.image import RGBImage
from workers.engine.pipeline.engine import PipelineEngine
from workers.engine.settings import EngineSettings

Kind = type[ContinuousEngine] | type[PipelineEngine]

KINDS: tuple[Kind, ...] = (ContinuousEngine, PipelineEngine)

#: longer than any value of the schemas, where a token is a byte
LONGEST = 1500


def by_schema(schema: Schema) -> Job:
    format = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return Job(messages=[{"role": "user", "content": "x"}], response_format=format)


def started(kind: Kind, model: Path, slots: int = 6) -> Engine:
    # without a prefix cache, whose use is counted in answers that are compared here
    chosen = EngineSettings(model=str(model), prefill_tokens=64, slot_tokens=4096, prefix_cache=False)
    engine = kind(chosen, slots)
    engine.start(lambda error, ids: None)
    return engine


@pytest.fixture(scope="module")
def both(dense_model: Path) -> Iterator[tuple[Engine, ...]]:
    engines = tuple(started(kind, dense_model) for kind in KINDS)
    yield engines
    for engine in engines:
        engine.stop()


@pytest.fixture(params=range(len(KINDS)), ids=["continuous", "pipeline"])
def engine(request: pytest.FixtureRequest, both: tuple[Engine, ...]) -> Engine:
    return both[request.param]


@pytest.fixture(scope="module")
def both_bundled() -> Iterator[tuple[Engine, ...]]:
    engines = tuple(started(kind, TINY, slots=16) for kind in KINDS)
    yield engines
    for engine in engines:
        engine.stop()


def answers(engine: Engine, prompts: list[Prompt]) -> list[Completion]:
    """Submitted at once."""
    return [future.result(SOON) for future in [engine.submit(prompt) for prompt in prompts]]


#: how often another one comes between those that have a grammar
PLAIN = [ask(number, max_new_tokens=20 + 10 * number) for number in range(4)]


@pytest.mark.timeout(400)
@given(
    asked=st.lists(st.tuples(schemas, st.sampled_from([0.0, 0.0, 1.0])), min_size=1, max_size=4),
    plain=st.lists(st.integers(0, len(PLAIN) - 1), max_size=3),
)
@settings(deadline=None, max_examples=15)
def test_answers_are_valid_alike_in_both_engines_and_nobodys_neighbour_is_changed(
    both: tuple[Engine, ...], asked: list[tuple[Schema, float]], plain: list[int]
) -> None:
    jobs = [by_schema(schema) for schema, _ in asked]
    guided = [
        ask(number, grammar=job.grammar, max_new_tokens=LONGEST, temperature=temperature, seed=5)
        for number, (job, (_, temperature)) in enumerate(zip(jobs, asked, strict=True))
    ]
    neighbours = [replace(PLAIN[number], id=f"plain-{n}") for n, number in enumerate(plain)]

    made = [answers(engine, guided + neighbours) for engine in both]

    for some in made:
        for job, (schema, _), completion in zip(jobs, asked, some[: len(jobs)], strict=True):
            jsonschema.validate(job.parse(completion.text), schema)
            assert completion.finish_reason == "stop"
    greedy = [n for n, prompt in enumerate(guided + neighbours) if prompt.params.temperature == 0]
    # where an engine's `fit` says the tokens of images, its answers may leave them out
    first, second = ([replace(some[n], image_tokens=()) for n in greedy] for some in made)
    assert first == second
    for engine, some in zip(both, made, strict=True):
        assert [engine.submit(prompt).result(SOON) for prompt in guided + neighbours] == some


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_choice_is_one_of_them_to_the_letter_and_no_control_token(engine: Engine, temperature: float) -> None:
    choices = [word for word in WORDS if word.strip() == word != ""] + ["no", "none"]
    # one alone is what it must be, however unlikely
    wanted = [[choice] for choice in choices] + [choices] * 8
    prompts = [
        ask(number, grammar=one_of(some), temperature=temperature, seed=number, max_new_tokens=60)
        for number, some in enumerate(wanted)
    ]

    made = [completion.text for completion in answers(engine, prompts)]

    assert made[: len(choices)] == choices
    assert set(made) <= set(choices)


def test_one_that_begins_another_ends_where_the_model_ends_it(engine: Engine) -> None:
    prompts = [ask(n, grammar=one_of(["n", "nn"]), temperature=2.0, seed=n, max_new_tokens=9) for n in range(40)]

    made = [(each.text, each.completion_tokens, each.finish_reason) for each in answers(engine, prompts)]

    # of the shorter one the token that ends the text is counted
    assert set(made) == {("n", 2, "stop"), ("nn", 2, "stop")}


LIST = json_grammar('{"type":"array","items":{"enum":["a long word"]},"minItems":5,"maxItems":5}')


def test_what_max_new_tokens_cuts_is_an_error_by_name_and_its_neighbour_is_answered(engine: Engine) -> None:
    whole = engine.submit(ask(0, grammar=LIST, max_new_tokens=200)).result(SOON)
    plain = engine.submit(ask(1)).result(SOON)

    enough, cut, beside = (
        engine.submit(prompt)
        for prompt in (
            ask(0, grammar=LIST, max_new_tokens=whole.completion_tokens),
            ask(2, grammar=LIST, max_new_tokens=whole.completion_tokens - 1),
            ask(1),
        )
    )

    assert enough.result(SOON) == whole
    with pytest.raises(AnswerTooLong, match=r"exceeds max_new_tokens=\d+"):
        cut.result(SOON)
    assert beside.result(SOON) == plain


def test_what_could_go_on_and_is_complete_where_it_is_cut_is_an_answer(engine: Engine) -> None:
    grammar = json_grammar('{"type":"integer","minimum":1000,"maximum":999999}')

    made = engine.submit(ask(0, grammar=grammar, max_new_tokens=4)).result(SOON)

    assert 1000 <= int(made.text) <= 9999
    assert made.finish_reason == "length"


def test_a_seed_repeats_a_structured_answer_and_another_gives_another(engine: Engine) -> None:
    grammar = json_grammar('{"type":"string","minLength":8,"maxLength":8}')
    prompts = [ask(0, grammar=grammar, temperature=1.0, seed=seed, max_new_tokens=80) for seed in range(6)]

    first, again = answers(engine, prompts), answers(engine, prompts)

    assert first == again
    assert len({completion.text for completion in first}) == 6


def test_a_structured_answer_takes_part_in_every_pass(both: tuple[Engine, ...]) -> None:
    continuous = both[0]
    assert isinstance(continuous, ContinuousEngine)
    before = continuous.stats().passes

    made, *free = answers(
        continuous, [ask(0, grammar=LIST, max_new_tokens=200), *(ask(1 + n, max_new_tokens=40) for n in range(2))]
    )

    passes = continuous.stats().passes - before
    # one more pass may be discarded, and this prompt may start a few passes late
    assert made.completion_tokens <= passes <= made.completion_tokens + 10
    assert made.completion_tokens > 60
    assert all(completion.completion_tokens == 40 for completion in free)


def test_who_listens_is_told_a_structured_answer(engine: Engine) -> None:
    heard: list[str] = []

    text = engine.submit(ask(0, grammar=LIST, max_new_tokens=200, on_text=heard.append)).result(SOON).text

    assert "".join(heard) == text
    assert len(heard) > 5


def test_a_grammar_that_is_too_much_fails_alone(engine: Engine) -> None:
    plain = engine.submit(ask(1)).result(SOON)
    endless = json_grammar('{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}')

    failed, broken, beside = (
        engine.submit(prompt)
        for prompt in (
            ask(0, grammar=endless, max_new_tokens=500),
            ask(2, grammar="no grammar"),
            ask(1),
        )
    )

    with pytest.raises(InvalidJob, match="too complex"):
        failed.result(SOON)
    with pytest.raises(InvalidJob):
        broken.result(SOON)
    assert beside.result(SOON) == plain


def test_a_prompt_that_listens_and_fails_leaves_the_others_their_guides(engine: Engine) -> None:
    def raises(piece: str) -> None:
        raise OSError("nobody there")

    alone = engine.submit(ask(0, grammar=LIST, max_new_tokens=200)).result(SOON)
    failed = engine.submit(ask(0, grammar=LIST, max_new_tokens=200, on_text=raises))
    beside = engine.submit(ask(0, grammar=LIST, max_new_tokens=200))

    assert isinstance(failed.exception(SOON), EngineError)
    assert beside.result(SOON) == alone


def test_many_at_once_with_one_grammar_and_with_many(engine: Engine) -> None:
    grammars = [one_of([f"{n}", f"{n} {n}"]) for n in range(60)]
    prompts = [ask(n, grammar=grammar, max_new_tokens=90) for n, grammar in enumerate([*grammars, *[LIST] * 20])]

    with ThreadPoolExecutor(8) as threads:
        made = [future.result(SOON).text for future in threads.map(engine.submit, prompts)]

    assert all(text in (f"{n}", f"{n} {n}") for n, text in enumerate(made[:60]))
    assert set(made[60:]) == {'["a long word", "a long word", "a long word", "a long word", "a long word"]'}


def test_a_microbatch_that_is_run_again_begins_its_guides_again(
    both: tuple[Engine, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = both[1]
    prompts = [ask(n, grammar=LIST, max_new_tokens=200, temperature=1.0) for n in range(3)]
    real, sizes = GenerationMixin.generate, []

    def fails_in_the_middle(model: Any, **inputs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 1:
            real(model, **{**inputs, "max_new_tokens": 5})
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, **inputs)

    monkeypatch.setattr(GenerationMixin, "generate", fails_in_the_middle)
    monkeypatch.setattr("workers.engine.pipeline.batcher._ENCODING_WAIT_S", SOON)

    assert len({completion.text for completion in answers(pipeline, prompts)}) == 1
    assert max(sizes) > 1


@pytest.fixture
def questions() -> Callable[[int], list[tuple[Prompt, str]]]:
    """Of the bundled model's kind, with their answers."""

    def made(count: int) -> list[tuple[Prompt, str]]:
        items = enumerate(held_out(count))
        return [(ask_about(item, f"q{n}", 64), item.answer) for n, item in items]

    return made


def test_the_bundled_model_answers_in_json_alike_in_both_engines(
    both_bundled: tuple[Engine, ...], questions: Callable[[int], list[tuple[Prompt, str]]]
) -> None:
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "string", "maxLength": 20}, "sure": {"type": "boolean"}},
        "required": ["answer", "sure"],
        "additionalProperties": False,
    }
    job = by_schema(schema)
    prompts = [guided(prompt, job.grammar) for prompt, _ in questions(12)]
    continuous, pipeline = (
        answers(engine, [_fitting(engine, prompt) for prompt in prompts]) for engine in both_bundled
    )

    for completion in (*continuous, *pipeline):
        jsonschema.validate(job.parse(completion.text), schema)


def test_the_bundled_model_still_knows_what_it_learnt_when_it_may_only_choose(
    both_bundled: tuple[Engine, ...], questions: Callable[[int], list[tuple[Prompt, str]]]
) -> None:
    items = questions(60)
    grammar = one_of(sorted({answer for _, answer in items}))
    for engine in both_bundled:
        made = answers(engine, [_fitting(engine, guided(prompt, grammar)) for prompt, _ in items])

        assert sum(each.text == answer for each, (_, answer) in zip(made, items, strict=True)) >= 54


def _fitting(engine: Engine, prompt: Prompt) -> Prompt:
    """With images of the size that the engine wants."""
    fit = engine.fit
    if fit is None:
        return prompt

    def fitted(part: str | RGBImage) -> str | RGBImage:
        if isinstance(part, str):
            return part
        return RGBImage.from_pil(part.pil.resize(fit.size(part.width, part.height)))

    turns = tuple(replace(turn, parts=tuple(map(fitted, turn.parts))) for turn in prompt.turns)
    return replace(prompt, turns=turns)
