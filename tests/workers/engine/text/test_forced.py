"""Answers that are given beforehand, among answers by a grammar and free ones."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.worker_process import TINY
from tests.workers.engine.conftest import make_prompt
from vqa.structured_output.grammar import one_of
from workers.engine.base import Prompt, Turn
from workers.engine.text.chat import Chat, ChatEncoder
from workers.engine.text.forced import ForcedTokens
from workers.engine.text.grammar import Guides
from workers.engine.text.guide import Guide, masks


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(TINY)


@pytest.fixture(scope="module")
def guides(tokenizer: Any) -> Guides:
    return Guides(tokenizer, {tokenizer.eos_token_id})


class NoInputs(ChatEncoder[Any]):
    def process(self, chat: Chat, prompt: Prompt) -> Any:
        raise AssertionError("it is not encoded")

    def count_tokens(self, inputs: Any) -> int:
        raise AssertionError("it is not encoded")


def forced(tokenizer: Any, guides: Guides, text: str) -> Guide:
    encoder = NoInputs(SimpleNamespace(tokenizer=tokenizer, chat_template=""), 4096, guides)
    prompt = make_prompt("a", (Turn("user", ("which colour?",)),))
    guide = encoder.guide(replace(prompt, params=replace(prompt.params, forced=text)))
    assert guide is not None
    return guide


def allowed(guide: Guide) -> list[int]:
    bits = int.from_bytes(masks([guide]).tobytes(), "little")
    return [token for token in range(bits.bit_length()) if bits >> token & 1]


def follow(guide: Guide) -> list[int]:
    """Take what is allowed until it is over."""
    taken = []
    while not guide.over:
        assert not guide.complete
        [token] = allowed(guide)
        assert guide.take(token)
        taken.append(token)
    assert guide.complete
    return taken


@given(ids=st.lists(st.integers(0, 99), min_size=1), seen=st.integers(0, 5))
def test_exactly_the_given_tokens_are_allowed_again_after_a_restart(ids: list[int], seen: int) -> None:
    guide = ForcedTokens(ids, 100)
    for token in ids[:seen]:
        guide.take(token)
    guide.restart()

    assert follow(guide) == ids
    assert not guide.take(ids[-1])


@pytest.mark.parametrize(("bound", "most"), [(9, 3), (2, 3), (1, 2)], ids=["shorter", "as-long", "longer"])
def test_a_forced_text_takes_its_own_tokens_up_to_the_bound_and_an_end(bound: int, most: int) -> None:
    assert ForcedTokens([4, 5, 0], 100).max_tokens(bound) == most


def test_another_token_is_refused_and_changes_nothing() -> None:
    guide = ForcedTokens([4, 5], 100)

    assert not guide.take(5)
    assert follow(guide) == [4, 5]


@pytest.mark.parametrize(
    "text", ["red", "a red square", "", " ", "é😀", "<|im_end|>", "a <|image_pad|> b"], ids=lambda text: text or "empty"
)
def test_a_forced_text_is_spelled_by_no_special_token_but_the_end(tokenizer: Any, guides: Guides, text: str) -> None:
    *ids, end = follow(forced(tokenizer, guides, text))

    assert end == tokenizer.eos_token_id
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert not set(ids) & set(tokenizer.all_special_ids)


def test_an_ordinary_text_has_the_tokens_that_the_tokenizer_makes_of_it(tokenizer: Any, guides: Guides) -> None:
    assert follow(forced(tokenizer, guides, "a red square"))[:-1] == tokenizer.encode("a red square")


def test_masks_of_grammars_and_forced_texts_are_those_of_each(tokenizer: Any, guides: Guides) -> None:
    mixed = [
        forced(tokenizer, guides, "red") if n % 3 == 0 else guides.guide(one_of([f"{n}", "blue"])) for n in range(20)
    ]

    together = masks(mixed)

    assert [row.tobytes() for row in together] == [masks([guide]).tobytes() for guide in mixed]
