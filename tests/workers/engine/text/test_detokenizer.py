from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from workers.engine.text.detokenizer import Detokenizer, decode

BUNDLED: Any = AutoTokenizer.from_pretrained(Path(__file__).parents[4] / "models" / "tiny-vl")


def falling_back_to_bytes() -> PreTrainedTokenizerFast:
    """As Llama's: words begin with a sign for the space before them, the first space is dropped, the rest is bytes."""
    words = ["<unk>", "▁", "a", "b", "c", "▁a", "▁the", "é", "."]
    vocabulary = {token: id for id, token in enumerate([*words, *(f"<0x{byte:02X}>" for byte in range(256))])}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


FALLING_BACK: Any = falling_back_to_bytes()

#: of every kind of character that UTF-8 has, and the sign that stands for half of one
SIGNS = st.sampled_from("ab \n.é€😀\ufffd中")
#: the bundled vocabulary has a token for every byte, and some past its end
ANY_TOKENS = st.lists(st.integers(0, len(BUNDLED) + 2), max_size=80)
TEXT_TOKENS = st.text(SIGNS | st.characters(codec="utf-8"), max_size=40).map(BUNDLED.encode)
TOKENS = st.lists(ANY_TOKENS | TEXT_TOKENS, max_size=4).map(lambda runs: [token for run in runs for token in run])
STOPS = st.lists(st.text(SIGNS, min_size=1, max_size=4), max_size=3).map(tuple)


def cut(text: str, stops: Sequence[str]) -> str:
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def sure(text: str, stops: Sequence[str]) -> str:
    """What no token that may follow changes, looked for in the whole text."""
    text = text.removesuffix("\ufffd")
    begun = (len(text) - size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size]))
    return text[: min(begun, default=len(text))]


def spell(tokenizer: Any, tokens: Sequence[int], stops: Sequence[str]) -> Iterator[tuple[str, str, bool]]:
    """After each token: all that was given out, all that was decoded, and whether it has stopped."""
    detokenizer = Detokenizer(tokenizer, stops)
    given = ""
    for count, token in enumerate(tokens, start=1):
        given += detokenizer.add(token)
        yield given, decode(tokenizer, tokens[:count]), detokenizer.stopped
        if detokenizer.stopped:
            break
    assert given + detokenizer.finish() == detokenizer.text
    yield detokenizer.text, decode(tokenizer, tokens[: count if tokens else 0]), detokenizer.stopped


@given(tokens=TOKENS, stops=STOPS)
@example(tokens=BUNDLED.encode("é€😀" * 30), stops=())
@example(tokens=BUNDLED.encode("\ufffd" * 60), stops=())
@example(tokens=[BUNDLED.encode("€")[0]] * 200, stops=())
@example(tokens=[BUNDLED.encode("😀")[1]] * 200, stops=())
@example(tokens=BUNDLED.encode("aa" * 100), stops=("a" * 90 + "b",))
@settings(deadline=None, max_examples=300)
def test_what_is_given_out_is_at_each_token_all_that_is_sure(tokens: list[int], stops: tuple[str, ...]) -> None:
    *steps, (text, whole, _) = spell(BUNDLED, tokens, stops)

    for given_out, decoded, stopped in steps:
        assert stopped == any(stop in decoded for stop in stops)
        if not stopped:
            assert given_out == sure(decoded, stops)
    assert text == cut(whole, stops)


@given(
    tokens=st.lists(st.integers(1, len(FALLING_BACK) + 1), max_size=80)
    | st.text(SIGNS, max_size=60).map(lambda text: FALLING_BACK.encode(text)),
    stops=STOPS,
)
@example(tokens=FALLING_BACK.encode("€" * 40 + "a"), stops=())
@example(tokens=[*FALLING_BACK.encode("a" * 30), *[9 + 0xE2] * 40, 2, 2], stops=())
@settings(deadline=None, max_examples=300)
def test_where_tokens_are_bytes_a_run_of_them_is_given_out_when_it_ends(
    tokens: list[int], stops: tuple[str, ...]
) -> None:
    *steps, (text, whole, _) = spell(FALLING_BACK, tokens, stops)

    assert text == cut(whole, stops)
    for given_out, decoded, stopped in steps:
        assert stopped == any(stop in decoded for stop in stops)
        assert text.startswith(given_out)


class Counting:
    """A tokenizer that notes how many tokens it was given to decode."""

    def __init__(self) -> None:
        self.decoded: list[int] = []

    def convert_ids_to_tokens(self, token: int) -> Any:
        return BUNDLED.convert_ids_to_tokens(token)

    def decode(self, tokens: Sequence[int], **how: Any) -> Any:
        self.decoded.append(len(tokens))
        return BUNDLED.decode(tokens, **how)


@pytest.mark.parametrize("stops", [(), ("never this",)])
@pytest.mark.parametrize("text", ["the red square ", "😀", "\ufffd"])
def test_however_long_the_text_a_token_costs_the_decoding_of_a_few(text: str, stops: tuple[str, ...]) -> None:
    tokenizer = Counting()
    detokenizer = Detokenizer(tokenizer, stops)
    tokens = BUNDLED.encode(text * 400)

    for token in tokens:
        detokenizer.add(token)

    assert max(tokenizer.decoded) <= 32
    assert len(tokenizer.decoded) <= 1.5 * len(tokens)


def test_a_half_character_at_the_end_is_part_of_the_text_as_it_is_decoded() -> None:
    detokenizer = Detokenizer(BUNDLED, ())
    pieces = [detokenizer.add(token) for token in BUNDLED.encode("a€")[:-1]]

    assert "".join(pieces) == "a"
    assert detokenizer.finish() == "\ufffd"
    assert detokenizer.text == "a\ufffd"
