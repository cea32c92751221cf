"""Thoughts, by their tokens: where they end, what is the answer, and what reaches a chat template."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.worker_process import TINY
from tests.workers.engine.conftest import make_prompt
from vqa.structured_output.grammar import one_of
from workers.engine.base import Completion
from workers.engine.runtime.pending import Pending
from workers.engine.text.generation import Generation
from workers.engine.text.grammar import Guides
from workers.engine.text.guide import Guide, masks
from workers.engine.text.special_tokens import SpecialTokens
from workers.engine.text.thought_guide import ThoughtGuide
from workers.engine.text.thoughts import ThoughtMarks, is_in_thought, knows_thoughts, opens_thought

COLOURS = one_of(["red", "blue"])
ENDING = "\n</think>\n\n"


@dataclass(frozen=True)
class Kit:
    tokenizer: Any
    marks: ThoughtMarks
    guides: Guides

    @property
    def end(self) -> int:
        return int(self.tokenizer.eos_token_id)

    def thought(self, most: int, grammar: str | None = None, opened: bool = True) -> ThoughtGuide:
        inner = self.guides.guide(grammar) if grammar else None
        return ThoughtGuide(self.marks, most, self.guides.num_tokens, {self.end}, inner, opened=opened)

    def spell(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def answer(self, text: str | list[int], guide: Guide, **how: Any) -> Completion:
        """The answer of a model that wants this text: it leaves out tokens that it may not write."""
        prompt = make_prompt("a", (), **{"max_new_tokens": 1000, **how})
        row = Generation(Pending(prompt), 7, self.tokenizer, {self.end}, guide)
        wanted = self.spell(text) if isinstance(text, str) else text
        tokens = iter([*wanted, self.end])
        while not row.pending.settled:
            may = [] if guide.free else allowed(guide)
            if len(may) == 1:
                row.add(may[0])
            else:
                row.add(next((token for token in tokens if not may or token in may), may[0] if may else self.end))
        return row.pending.future.result(0)


def allowed(guide: Guide) -> list[int]:
    bits = int.from_bytes(masks([guide]).tobytes(), "little")
    return [token for token in range(bits.bit_length()) if bits >> token & 1]


def _kit(*marks: str, special: bool = False) -> Kit:
    tokenizer: Any = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_tokens([*marks, "<tool_call>"], special_tokens=special)
    return Kit(tokenizer, ThoughtMarks.from_tokenizer(tokenizer), Guides(tokenizer, {tokenizer.eos_token_id}))


@pytest.fixture(scope="session")
def tokens() -> Kit:
    return _kit("<think>", "</think>")


@pytest.fixture(scope="session", params=["tokens", "special", "spelled"])
def kit(request: pytest.FixtureRequest, tokens: Kit) -> Kit:
    """Whose marks are tokens, special ones, or spelled with several."""
    if request.param == "tokens":
        return tokens
    return _kit("<think>", "</think>", special=True) if request.param == "special" else _kit()


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("it is warm\n</think>\n\nred", "it is warm", "red"),
        ("it is warm</think>red", "it is warm", "red"),
        ("a</think>b</think>c", "a", None),
        ("\n\n</think>\n\nred", None, "red"),
        ("é</think>\n\n\n\n é\n\n", "é", " é\n\n"),
        ("it is wa", "it is wa", ""),
        ("", None, ""),
    ],
    ids=["usual", "close", "twice", "empty", "newlines", "unended", "nothing"],
)
def test_the_thought_is_told_apart_from_the_answer(kit: Kit, text: str, thought: str | None, answer: str) -> None:
    made = kit.answer(text, kit.thought(1000))

    assert (made.reasoning, made.finish_reason) == (thought, "stop")
    # a special token is not part of a text
    assert made.text == answer or (answer is None and made.text in ("b</think>c", "bc"))
    assert made.completion_tokens == len(kit.spell(text)) + 1


def test_what_spells_the_end_of_a_thought_without_its_token_does_not_end_it(tokens: Kit) -> None:
    spelled = [token for part in ("</", "think", ">") for token in tokens.spell(part)]

    made = tokens.answer([*tokens.spell("a"), *spelled, *tokens.spell("b</think>c")], tokens.thought(1000))

    assert (made.reasoning, made.text) == ("a</think>b", "c")


@given(
    text=st.lists(st.sampled_from(["a", " b", "</think>", "<think>", "\n", "é", "stop"]), max_size=12).map("".join),
    most=st.integers(0, 12),
    max_new_tokens=st.integers(1, 8),
    stop=st.sampled_from([(), ("stop",), ("\n", " b")]),
)
@settings(deadline=None)
def test_the_pieces_joined_are_the_answer_and_neither_thought_nor_stop_strings_before_it_count(
    kit: Kit, text: str, most: int, max_new_tokens: int, stop: tuple[str, ...]
) -> None:
    pieces: list[str] = []
    how = {"max_new_tokens": max_new_tokens, "stop": stop}

    guide = kit.thought(most)
    heard = kit.answer(text, guide, on_text=pieces.append, **how)

    assert heard == kit.answer(text, kit.thought(most), **how)
    assert "".join(pieces) == heard.text
    assert not any(each in heard.text for each in stop)
    assert guide.num_extra <= most + len(kit.marks.ending)
    assert heard.completion_tokens - guide.num_extra <= max_new_tokens
    assert heard.completion_tokens <= kit.thought(most).max_tokens(max_new_tokens)


def test_an_answer_is_streamed_piece_by_piece_as_soon_as_its_thought_has_ended(tokens: Kit) -> None:
    pieces: list[str] = []

    tokens.answer("it is warm\n</think>\n\nred and blue", tokens.thought(100), on_text=pieces.append)

    assert pieces == ["red", " and", " blue"]


@given(text=st.text("ab \n", max_size=20), most=st.integers(0, 10), grammar=st.sampled_from([None, COLOURS]))
@settings(deadline=None)
def test_at_its_bound_a_thought_is_ended_and_the_answer_keeps_its_form(
    kit: Kit, text: str, most: int, grammar: str | None
) -> None:
    thought, ids = kit.thought(most, grammar), kit.spell(text)

    made = kit.answer([*ids, *kit.spell("blue")], thought)

    if len(ids) >= most:
        assert made.reasoning == (str(kit.tokenizer.decode(ids[:most])).strip() or None)
        assert thought.num_extra == most + len(kit.marks.ending)
    assert grammar is None or made.text in {"red", "blue"}
    assert thought.complete


def test_before_a_restricted_answer_a_text_may_not_end_and_the_empty_line_is_forced(kit: Kit) -> None:
    guide = kit.thought(100, COLOURS)

    assert set(range(kit.guides.num_tokens)) - set(allowed(guide)) == {kit.end}
    made = kit.answer("it is warm\n</think>red", guide)

    assert (made.reasoning, made.text) == ("it is warm", "red")
    newlines = kit.marks.newlines
    assert kit.tokenizer.decode(newlines) == ("\n\n" if kit.marks.close_id else "")
    assert made.completion_tokens == len(kit.spell("it is warm\n</think>red")) + len(newlines)


def test_another_token_than_the_forced_one_is_refused(kit: Kit) -> None:
    assert not kit.thought(0).take(kit.spell("a")[0])


def test_a_thought_that_the_answer_may_open_is_told_apart_and_others_are_answers(tokens: Kit) -> None:
    made = tokens.answer("<think>\nwarm\n</think>\n\nred", tokens.thought(100, opened=False))
    bounded = tokens.answer("<think>warm and more", tokens.thought(0, opened=False))
    other = tokens.answer("a</think>\n\nb", tokens.thought(100, opened=False), max_new_tokens=4)

    assert (made.reasoning, made.text) == ("warm", "red")
    assert (bounded.reasoning, bounded.text) == (None, "warm and more")
    assert other.reasoning is None
    assert "a</think>\n\nb".startswith(other.text)
    assert other.completion_tokens == 4


def test_a_guide_begins_its_thought_again(kit: Kit) -> None:
    guide = kit.thought(3, COLOURS)
    first = kit.answer("some thought", guide)
    guide.restart()

    assert kit.answer("some thought", guide) == first


def test_a_thought_is_shortened_by_what_it_has(kit: Kit) -> None:
    guide = kit.thought(10)

    assert (guide.shorten(4), guide.max_thought, guide.shorten(100), guide.max_thought) == (4, 6, 6, 0)
    assert allowed(guide) == [kit.marks.ending[0]]
    assert guide.max_tokens(5) == len(kit.marks.ending) + 5


def test_masks_of_thoughts_in_all_phases_are_those_of_each(kit: Kit) -> None:
    guides: list[Guide] = [kit.thought(n % 3, COLOURS if n % 2 else None) for n in range(12)]
    guides += [kit.guides.guide(COLOURS), kit.thought(5, COLOURS, opened=False)]
    for guide in guides[:6]:
        guide.take(allowed(guide)[0])

    assert [row.tobytes() for row in masks(guides)] == [masks([guide]).tobytes() for guide in guides]


TEXT = "<think>\nhm\n</think>\n\nred <|im_end|>"


@pytest.mark.parametrize("template", ["", "{{ '</think>' }}"], ids=["unknown", "known"])
def test_only_an_answer_keeps_the_ends_of_its_thought(kit: Kit, template: str) -> None:
    escaping = SpecialTokens(SimpleNamespace(tokenizer=kit.tokenizer, chat_template=template))

    assert escaping.escape(TEXT, keep_thoughts=True) == "<think>\nhm\n</think>\n\nred < |im_end|>"
    if template or kit.marks.close_id:
        assert escaping.escape(TEXT) == "< think>\nhm\n< /think>\n\nred < |im_end|>"
    else:
        assert escaping.escape(TEXT) == "<think>\nhm\n</think>\n\nred < |im_end|>"


@pytest.mark.parametrize(
    ("text", "inside"),
    [("", False), ("It is", False), ("<think>\nhm", True), ("<think>\nhm</think>\n\nIt", False), ("a</think>b", False)],
    ids=["nothing", "answer", "thought", "ended", "closed"],
)
def test_the_beginning_of_an_answer_may_be_inside_a_thought(text: str, inside: bool) -> None:
    assert is_in_thought(text) == inside


def test_the_bundled_model_does_not_think(tokens: Kit) -> None:
    template = (TINY / "chat_template.jinja").read_text()
    processor = SimpleNamespace(tokenizer=tokens.tokenizer, chat_template=template)

    assert not knows_thoughts(processor)
    assert not opens_thought(processor)
