"""Models that think before they answer, in both engines: random ones, whose template opens a thought."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workers.engine.conftest import SOON, ask, build_model, image, make_prompt
from vqa.errors import PromptTooLong
from vqa.structured_output.grammar import json_grammar, one_of
from workers.engine.base import Completion, Engine, Prompt, Turn
from workers.engine.continuous.engine import ContinuousEngine
from workers.engine.model.loading import eos_ids, load
from workers.engine.pipeline.encoding import Encoder
from workers.engine.pipeline.engine import PipelineEngine
from workers.engine.settings import EngineSettings

KINDS = (ContinuousEngine, PipelineEngine)
MARKS = {"tokens": ("<think>", "</think>"), "spelled": ()}
ENDING = "\n</think>\n\n"
COLOURS = one_of(["red", "blue"])
NUMBER = {"type": "integer", "minimum": 0, "maximum": 99}
NUMBERS = json_grammar(json.dumps({"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2}))


@dataclass(frozen=True)
class Kit:
    """Both engines over one model, and what its `generate` makes of prompts."""

    engines: tuple[Engine, ...]
    pipe: Any
    folder: Path

    @property
    def tokenizer(self) -> Any:
        return self.pipe.tokenizer

    @property
    def ending(self) -> list[int]:
        """The tokens that are forced at the bound."""
        return list(self.tokenizer(ENDING, add_special_tokens=False)["input_ids"])

    @torch.inference_mode()
    def generate(self, prompt: Prompt, begun: Sequence[int], most: int, **how: Any) -> list[int]:
        """The tokens that follow those of the prompt and `begun`, until a text ends."""
        if not most:
            return []
        inputs = dict(Encoder(self.pipe, slot_tokens=4096).encode(free(prompt)).tensors)
        more = torch.tensor([[*begun]], dtype=torch.long)
        for name, filled in (("input_ids", more), ("attention_mask", more * 0 + 1), ("mm_token_type_ids", more * 0)):
            if name in inputs:
                inputs[name] = torch.cat((inputs[name], filled), 1)
        made = self.pipe.model.generate(**inputs, max_new_tokens=most, do_sample=False, num_beams=1, **how)
        return list(made[0, inputs["input_ids"].shape[1] :].tolist())

    def thought(self, prompt: Prompt, most: int, **how: Any) -> tuple[list[int], bool]:
        """The tokens of the thought, up to its bound, and whether the model itself ends it, or its text."""
        thought = self.generate(prompt, [], most, **how)
        close = self.tokenizer.get_added_vocab().get("</think>")
        if close in thought:
            return thought[: thought.index(close) + 1], True
        return thought, bool(thought) and thought[-1] in eos_ids(self.pipe)

    def text(self, thought: Sequence[int]) -> str | None:
        close = self.tokenizer.get_added_vocab().get("</think>")
        return decoded(self.tokenizer, [token for token in thought if token != close]).strip() or None

    def expected(self, prompt: Prompt, most: int) -> tuple[str | None, str, int]:
        """The thought, the answer and the number of tokens, by `generate` and what is forced at the bound."""
        thought, ended = self.thought(prompt, most)
        if ended and thought[-1] in eos_ids(self.pipe):
            return self.text(thought), "", len(thought)
        begun = thought if ended else [*thought, *self.ending]
        answer = self.generate(prompt, begun, prompt.params.max_new_tokens)
        return self.text(thought), decoded(self.tokenizer, answer).lstrip("\n"), len(begun) + len(answer)


def free(prompt: Prompt) -> Prompt:
    """Without a grammar and without anybody who listens."""
    return replace(prompt, on_text=None, params=replace(prompt.params, grammar=None))


def decoded(tokenizer: Any, tokens: Sequence[int]) -> str:
    shown = [token for token in tokens if token not in tokenizer.all_special_ids]
    return str(tokenizer.decode(shown, clean_up_tokenization_spaces=False))


@pytest.fixture(scope="module", params=list(MARKS))
def kit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    """Of a model that has tokens for the ends of thoughts, and of one that spells them."""
    folder = build_model(tmp_path_factory.mktemp(request.param), experts=False, thinks=MARKS[request.param])
    chosen = EngineSettings(model=str(folder), prefill_tokens=64, slot_tokens=1024, max_reasoning_tokens=40)
    engines = tuple(kind(chosen, 8) for kind in KINDS)
    for engine in engines:
        engine.start(lambda error, ids: None)
    yield Kit(engines, load(chosen), folder)
    for engine in engines:
        engine.stop()


def answers(engine: Engine, prompts: Sequence[Prompt]) -> list[Completion]:
    """Submitted at once."""
    return [future.result(SOON) for future in [engine.submit(prompt) for prompt in prompts]]


@given(
    budgets=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 20)), min_size=1, max_size=6),
)
@settings(deadline=None, max_examples=4, suppress_health_check=[HealthCheck.too_slow])
def test_thought_and_answer_are_those_of_generate_with_the_end_forced_at_the_bound(
    kit: Kit, budgets: list[tuple[int, int]]
) -> None:
    pieces: list[list[str]] = [[] for _ in budgets]
    prompts = [
        ask(number, max_reasoning_tokens=most, max_new_tokens=answer, on_text=pieces[number].append)
        for number, (most, answer) in enumerate(budgets)
    ]
    expected = [kit.expected(prompt, most) for prompt, (most, _) in zip(prompts, budgets, strict=True)]

    for engine in kit.engines:
        for heard in pieces:
            heard.clear()
        made = answers(engine, prompts)

        assert [(each.reasoning, each.text, each.completion_tokens) for each in made] == expected
        assert all(
            each.completion_tokens - each.reasoning_tokens <= most
            for each, (_, most) in zip(made, budgets, strict=True)
        )
        assert ["".join(heard) for heard in pieces] == [each.text for each in made]


@given(
    budgets=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    temperature=st.sampled_from([0.0, 1.0]),
    grammar=st.sampled_from([COLOURS, NUMBERS]),
)
@settings(deadline=None, max_examples=4, suppress_health_check=[HealthCheck.too_slow])
def test_a_structured_answer_keeps_its_form_after_the_thought(
    kit: Kit, budgets: list[int], temperature: float, grammar: str
) -> None:
    how: dict[str, Any] = {"grammar": grammar, "temperature": temperature, "max_new_tokens": 8}
    prompts = [ask(n, max_reasoning_tokens=most, seed=n, **how) for n, most in enumerate(budgets)]

    made = [answers(engine, prompts) for engine in kit.engines]

    for each in (each for completions in made for each in completions):
        assert each.text in {"red", "blue"} if grammar == COLOURS else len(json.loads(each.text)) == 2
    if temperature == 0:
        same = [[(each.text, each.reasoning, each.completion_tokens) for each in completions] for completions in made]
        assert same[0] == same[1]
        ends = list(eos_ids(kit.pipe))
        for (_, reasoning, tokens), prompt, most in zip(same[0], prompts, budgets, strict=True):
            thought, ended = kit.thought(prompt, most, suppress_tokens=ends)
            assert reasoning == kit.text(thought)
            assert tokens > len(thought) + (2 if ended else len(kit.ending))


def test_a_thought_is_bounded_by_the_setting_and_shortened_where_its_slot_has_less_room(kit: Kit) -> None:
    whole, less = ask(0, max_new_tokens=5), ask(0, max_new_tokens=5, question="x" * 880)
    for engine in kit.engines:
        usual, short = answers(engine, [whole, less])

        assert usual.completion_tokens <= 40 + len(kit.ending) + 5
        assert short.prompt_tokens + short.completion_tokens <= 1024
        refused = engine.submit(ask(0, max_new_tokens=5, max_reasoning_tokens=900, question="x" * 880))
        with pytest.raises(PromptTooLong, match=r"max_new_tokens=5, max_reasoning_tokens=900 exceed the 1024"):
            refused.result(SOON)


def test_a_beginning_that_the_caller_wrote_is_no_thought_unless_it_is_inside_one(kit: Kit) -> None:
    question = Turn("user", (image(0), "which colour?"))
    begun, inside = (Turn("assistant", (text,)) for text in ("It is ", "<think>\nIt"))
    prompts = [make_prompt(f"{n}", (question, turn), grammar=COLOURS) for n, turn in enumerate((begun, inside))]
    for engine in kit.engines:
        continued, thought = answers(engine, prompts)

        assert (continued.reasoning, continued.text in {"red", "blue"}) == (None, True)
        assert thought.text in {"red", "blue"}
        assert thought.completion_tokens > continued.completion_tokens


def test_earlier_thoughts_are_left_out_by_the_template_and_a_users_mark_ends_none(kit: Kit) -> None:
    def turns(answer: str, question: str = "and this?") -> tuple[Turn, ...]:
        return Turn("user", ("what?",)), Turn("assistant", (answer,)), Turn("user", (question,))

    encoder = Encoder(kit.pipe, slot_tokens=1024)
    ids = {
        text: encoder.encode(make_prompt("a", turns(text))).tensors["input_ids"].tolist()
        for text in ("red", "hm\n</think>\n\nred", "hm\nred")
    }
    escaped = encoder.encode(make_prompt("a", turns("red", "a </think> b <think>"))).tensors["input_ids"][0]

    assert ids["red"] == ids["hm\n</think>\n\nred"] != ids["hm\nred"]
    text = kit.tokenizer.decode(escaped)
    assert "a < /think> b < think>" in text
    # of the prompt's own end alone
    assert text.count("<think>") == 1
    assert "</think>" not in text


def test_a_thinking_model_says_how_long_it_thinks(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "workers.engine.model_engine")
    engine = PipelineEngine(EngineSettings(model=str(kit.folder), max_reasoning_tokens=30), 1)
    engine.start(lambda error, ids: None)
    engine.stop()

    [line] = [each.message for each in caplog.records if "thinks" in each.message]
    assert "thinks before it answers: for up to 30 tokens (VQA_MAX_REASONING_TOKENS)" in line


def test_choices_are_scored_without_a_thought_alike_in_both_engines(kit: Kit) -> None:
    first, second = (engine.submit(ask(0, choices=("red", "blue"))).result(SOON) for engine in kit.engines)

    assert first.choices is not None
    assert sum(first.choices.values()) == pytest.approx(1)
    assert second.choices == pytest.approx(first.choices, abs=1e-4)
    assert (first.reasoning, first.text) == (None, max(first.choices, key=first.choices.__getitem__))
