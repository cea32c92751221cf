"""Guides over tokenizers of every kind that models have, without a model: whatever is drawn, the form is kept."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.schemas import WORDS, Schema, schemas
from tests.worker_process import TINY
from vqa.errors import InvalidJob
from vqa.structured_output.grammar import json_grammar, one_of
from workers.engine.text.grammar import Guides
from workers.engine.text.guide import Guide, masks
from workers.engine.text.masks import unpack_masks

#: `<tool_call>` steers a model and is not marked as special, as in Qwen's
ADDED = ("<s>", "<|im_end|>", "<|endoftext|>")
TEXTS = ['{"answer": "a red square", "count": 12, "sure": true}', "[1, 2, null]", "what is it? é 😀", "\n\t{}\\ "] * 20


def _with_added(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens(list(ADDED))
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")


def byte_level() -> PreTrainedTokenizerFast:
    """GPT-2's, Llama 3's and Qwen's kind."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _with_added(tokenizer)


BYTES = [f"<0x{number:02X}>" for number in range(256)]
SPACED = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)


def byte_fallback() -> PreTrainedTokenizerFast:
    """Llama 2's and Gemma's kind."""
    learning = Tokenizer(models.BPE())
    learning.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learning.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    learnt = json.loads(learning.to_str())["model"]
    vocabulary = {token: id for id, token in enumerate(["<unk>", "<s>", *BYTES, *learnt["vocab"]])}
    merges = [tuple(pair) for pair in learnt["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = learning.normalizer
    tokenizer.decoder = SPACED
    return _with_added(tokenizer)


def unigram() -> PreTrainedTokenizerFast:
    """T5's kind, with bytes for what it does not know."""
    signs = [*sorted(set("".join(TEXTS)) - {" "}), "▁", "▁is", "red", "▁red", "no", "one", '"▁', '{"', '":']
    pieces = [("<unk>", 0.0), ("<s>", 0.0), *((byte, -20.0) for byte in BYTES), *((sign, -3.0) for sign in signs)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = SPACED
    return _with_added(tokenizer)


def bundled() -> Any:
    return AutoTokenizer.from_pretrained(TINY)


class Kit:
    """A tokenizer, its guides, and somebody who takes any token that is allowed."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ends = frozenset({tokenizer.eos_token_id})
        self.guides = Guides(tokenizer, self.ends)

    def allowed(self, guide: Guide) -> list[int]:
        bits = int.from_bytes(masks([guide]).tobytes(), "little")
        return [token for token in range(bits.bit_length()) if bits >> token & 1]

    def walk(self, grammar: str, draw: random.Random) -> str:
        guide, taken = self.guides.guide(grammar), []
        while not guide.over:
            token = draw.choice(self.allowed(guide))
            assert guide.take(token)
            assert guide.complete or token not in self.ends
            if token not in self.ends:
                taken.append(token)
        assert guide.complete
        assert not set(taken) & set(self.tokenizer.get_added_vocab().values())
        return str(self.tokenizer.decode(taken, clean_up_tokenization_spaces=False))


@pytest.fixture(scope="module", params=[byte_level, byte_fallback, unigram, bundled], ids=lambda make: make.__name__)
def kit(request: pytest.FixtureRequest) -> Kit:
    return Kit(request.param())


@given(schema=schemas, seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=60)
def test_whatever_is_drawn_is_valid(kit: Kit, schema: Schema, seed: int) -> None:
    text = kit.walk(json_grammar(json.dumps(schema)), random.Random(seed))

    jsonschema.validate(json.loads(text), schema)


CHOICES = [word for word in WORDS if word.strip() == word != ""] + ["no", "none", "<tool_call>", "é", "日本"]


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_is_spelled_to_the_letter_and_by_no_control_token(kit: Kit, choice: str) -> None:
    assert {kit.walk(one_of([choice]), random.Random(seed)) for seed in range(5)} == {choice}


def test_every_choice_can_be_taken(kit: Kit) -> None:
    grammar = one_of(CHOICES)

    assert {kit.walk(grammar, random.Random(seed)) for seed in range(300)} == set(CHOICES)


def test_the_end_of_text_may_come_exactly_where_the_text_is_complete(kit: Kit) -> None:
    guide = kit.guides.guide(json_grammar('{"type":"integer","minimum":0,"maximum":999}'))
    one = kit.tokenizer.convert_tokens_to_ids("1")

    assert kit.ends.isdisjoint(kit.allowed(guide))
    assert not guide.complete
    assert guide.take(one)
    assert kit.ends <= set(kit.allowed(guide))
    assert guide.complete
    assert not guide.over
    assert guide.take(next(iter(kit.ends)))
    assert guide.over
    assert guide.complete


def test_a_guide_begins_again_and_another_of_the_same_grammar_goes_its_own_way(kit: Kit) -> None:
    grammar = json_grammar('{"enum":["red","green"]}')
    first, second = (kit.guides.guide(grammar) for _ in range(2))
    begin = kit.allowed(first)
    assert first.take(kit.allowed(first)[0])
    while not first.over:
        first.take(kit.allowed(first)[0])

    assert kit.allowed(second) == begin
    first.restart()
    assert kit.allowed(first) == begin
    assert not first.complete


def test_a_token_that_may_not_come_ends_a_guide_incomplete_until_it_begins_again(kit: Kit) -> None:
    guide = kit.guides.guide(json_grammar('{"type":"integer"}'))

    assert not guide.take(next(iter(kit.ends)))
    assert not guide.complete
    assert set(kit.allowed(guide)) <= kit.ends
    assert not guide.take(kit.tokenizer.convert_tokens_to_ids("1"))
    guide.restart()
    assert guide.take(kit.tokenizer.convert_tokens_to_ids("1"))


def test_grammars_that_are_no_longer_kept_are_compiled_again(kit: Kit) -> None:
    for _ in range(2):
        for number in range(40):
            assert kit.walk(one_of([f"{number}"]), random.Random(0)) == f"{number}"


def test_the_masks_of_many_are_those_of_each_and_name_no_token_that_there_is_not(kit: Kit) -> None:
    guides = [kit.guides.guide(one_of([f"{n}" * (1 + n % 3)])) for n in range(70)]
    for guide in guides[::2]:
        assert guide.take(kit.allowed(guide)[-1])

    together = masks(guides)

    assert [row.tobytes() for row in together] == [masks([guide]).tobytes() for guide in guides]
    assert max(map(max, map(kit.allowed, guides))) < len(kit.tokenizer)


@given(width=st.integers(1, 70), words=st.integers(1, 3), seed=st.integers(0, 2**32))
def test_a_mask_is_unpacked_to_the_width_of_the_models_matrix(width: int, words: int, seed: int) -> None:
    bits = numpy.frombuffer(random.Random(seed).randbytes(3 * 4 * words), numpy.int32).reshape(3, words)

    allowed = unpack_masks(torch.from_numpy(bits.copy()), width)

    wanted = [[at < 32 * words and bool(int(row[at // 32]) >> at % 32 & 1) for at in range(width)] for row in bits]
    assert allowed.tolist() == wanted


def test_an_end_that_the_tokenizer_does_not_have_ends_nothing() -> None:
    tokenizer = bundled()
    guides = Guides(tokenizer, {tokenizer.eos_token_id, 5000})
    guide = guides.guide(one_of(["n"]))
    assert guide.take(tokenizer.convert_tokens_to_ids("n"))
    assert guide.complete


def test_a_tokenizer_that_cannot_be_read_is_told_by_name(caplog: pytest.LogCaptureFixture) -> None:
    class Slow:
        eos_token_id = 1

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "</s>": 1}

    # others' answers need no grammar
    guides = Guides(Slow(), [1])
    assert "jobs with a response_format fail" in caplog.text

    with pytest.raises(InvalidJob, match="does not support response formats"):
        guides.guide(one_of(["a"]))
