"""The bytes of tokens, of the kinds of vocabularies that there are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.worker_process import TINY
from workers.engine.base import TokenLogprob
from workers.engine.text.logprobs import text_logprobs
from workers.engine.text.token_bytes import TokenBytes

tokenizer = AutoTokenizer.from_pretrained(TINY)
names = TokenBytes(tokenizer)


@given(st.text())
def test_the_bytes_of_a_texts_tokens_are_the_text(text: str) -> None:
    tokens = tokenizer(text, add_special_tokens=False).input_ids

    assert b"".join(names[token] for token in tokens).decode() == tokenizer.decode(
        tokens, clean_up_tokenization_spaces=False
    )


def test_a_special_token_is_its_name_and_an_unknown_one_is_nothing() -> None:
    assert names[tokenizer.eos_token_id] == tokenizer.eos_token.encode()
    assert names[10**6] == b""


def test_tokens_of_sentencepiece_have_spaces_and_bytes() -> None:
    vocabulary = {"\u2581cat": 0, "<0xE2>": 1, "s": 2}
    made = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])

    spelled = TokenBytes(PreTrainedTokenizerFast(tokenizer_object=made))

    assert [spelled[token] for token in range(3)] == [b" cat", b"\xe2", b"s"]


@pytest.mark.parametrize(
    ("tokens", "text", "kept"),
    [
        (["a", "b"], "ab", ["a", "b"]),
        (["a", "b. S", "top"], "ab. ", ["a", "b. S"]),
        ([" a", "b"], "ab", [" a", "b"]),
        (["\n", "a"], "a", ["a"]),
        (["a", "", "b", ""], "ab", ["a", "", "b"]),
        (["a"], "", []),
        (["a", "b"], "A b", ["a", "b"]),
        ([b"\xe2", b"\x82\xac", b"x", b"y"], "\u20acx", [b"\xe2", b"\x82\xac", b"x"]),
        ([b"\xff", b"a", b"\xfe", b"bc"], "\ufffda\ufffd", [b"\xff", b"a", b"\xfe"]),
    ],
    ids=[
        "all",
        "stop-in-token",
        "leading-space",
        "leading-line",
        "empty-tokens",
        "no-text",
        "changed-by-decoding",
        "spread",
        "no-utf-8",
    ],
)
def test_log_probabilities_are_of_the_texts_tokens(
    tokens: list[str | bytes], text: str, kept: list[str | bytes]
) -> None:
    tokens, kept = ([each.encode() if isinstance(each, str) else each for each in some] for some in (tokens, kept))
    generated = [TokenLogprob(0, token, -1.0) for token in tokens]

    assert [each.text for each in text_logprobs(generated, text)] == kept
