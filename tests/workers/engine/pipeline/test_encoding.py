from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.workers.engine.conftest import SPECIAL, ask, image, make_prompt
from vqa.errors import InvalidJob
from workers.engine.base import Turn
from workers.engine.image import RGBImage
from workers.engine.model.image_sizes import fit_of
from workers.engine.model.loading import load
from workers.engine.pipeline.encoding import Encoder
from workers.engine.settings import EngineSettings

words = st.lists(st.one_of(st.sampled_from([*SPECIAL, "<|im_", "start|>", "end|>", "<|"]), st.text(max_size=5)))


@pytest.fixture(scope="session")
def pipe(dense_model: Path) -> Any:
    return load(EngineSettings(model=str(dense_model)))


@pytest.fixture(scope="session")
def encoder(pipe: Any) -> Encoder:
    return Encoder(pipe, slot_tokens=4096)


def steering(encoder: Encoder, pipe: Any, *texts: str) -> Counter[int]:
    """How often each control token is in a prompt of one image and `texts`."""
    ids = encoder.encode(make_prompt("a", (Turn("user", (image(), *texts)),), 1)).tensors["input_ids"][0].tolist()
    return Counter(id for id in ids if id in set(pipe.tokenizer.all_special_ids))


@given(parts=words)
@settings(deadline=None, max_examples=60)
def test_no_words_add_a_control_token_to_a_prompt_even_over_several_parts(
    encoder: Encoder, pipe: Any, parts: list[str]
) -> None:
    assert steering(encoder, pipe, *parts) == steering(encoder, pipe)


@given(question=st.text())
@settings(deadline=None, max_examples=60)
def test_ordinary_words_reach_the_model_as_they_are(encoder: Encoder, pipe: Any, question: str) -> None:
    if any(token in question for token in SPECIAL):
        return
    ids = encoder.encode(make_prompt("a", (Turn("user", (question,)),), 1)).tensors["input_ids"][0].tolist()

    # the tokenizer itself composes accents
    normal = pipe.tokenizer.decode(pipe.tokenizer(question)["input_ids"])
    assert pipe.tokenizer.decode(ids) == f"<|im_start|>user\n{normal}<|im_end|>\n<|im_start|>assistant\n"


def test_a_chat_that_ends_with_the_assistant_is_continued(encoder: Encoder, pipe: Any) -> None:
    chat = (Turn("user", ("what?",)), Turn("assistant", ("It is",)))

    ids = encoder.encode(make_prompt("a", chat, 1)).tensors["input_ids"][0].tolist()

    assert pipe.tokenizer.decode(ids).endswith("<|im_start|>assistant\nIt is")


def test_prompts_are_padded_on_the_left_and_images_strung_together(encoder: Encoder) -> None:
    short, long = encoder.encode(ask(0, "a")), encoder.encode(ask(1, "a much longer question"))

    inputs = encoder.collate([short, long])

    gap = long.prompt_tokens - short.prompt_tokens
    assert inputs["input_ids"].shape == (2, long.prompt_tokens)
    assert inputs["attention_mask"][0].tolist() == [0] * gap + [1] * short.prompt_tokens
    assert torch.equal(inputs["input_ids"][0, gap:], short.tensors["input_ids"][0])
    assert inputs["image_grid_thw"].shape == (2, 3)
    assert len(inputs["pixel_values"]) == len(short.tensors["pixel_values"]) + len(long.tensors["pixel_values"])


def test_the_size_at_which_the_model_sees_each_image_is_told(encoder: Encoder) -> None:
    large, small = (RGBImage.from_pil(Image.new("RGB", size)) for size in ((1000, 500), (10, 10)))

    sizes = encoder.encode(make_prompt("a", (Turn("user", (large, small, "?")),), 1)).image_sizes

    assert sizes == ((352, 160), (64, 64))


def test_prompts_of_words_alone_are_of_another_kind(encoder: Encoder) -> None:
    first, second = encoder.encode(ask(0)), encoder.encode(ask(1))
    of_words = encoder.encode(make_prompt("a", (Turn("user", ("hello",)),), 1))

    assert first.kind == second.kind != of_words.kind


def test_half_a_surrogate_pair_is_an_invalid_job(encoder: Encoder) -> None:
    with pytest.raises(InvalidJob, match="surrogate"):
        encoder.encode(make_prompt("a", (Turn("user", ("\ud800",)),), 1))


def test_a_image_that_is_a_string_is_never_fetched(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://example.org/image.png"
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it was fetched"))

    # a string is words, whatever it looks like
    assert encoder.encode(make_prompt("a", (Turn("user", (url,)),), 1)).prompt_tokens > len(url)


def test_the_processors_words_are_not_told(encoder: Encoder, pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ValueError("secret words of a user")

    monkeypatch.setattr(pipe, "preprocess", refuse)

    with pytest.raises(InvalidJob, match=r"\(ValueError\)"):
        encoder.encode(ask(0))


@pytest.mark.parametrize("size", [(300, 200), (200, 40), (900, 20), (33, 65)], ids=str)
def test_an_image_that_its_job_made_smaller_is_taken_as_a_processor_with_that_limit_takes_the_whole(
    dense_model: Path, encoder: Encoder, pipe: Any, size: tuple[int, int]
) -> None:
    """A job with max_image_tokens=9, and a worker with VQA_MAX_IMAGE_TOKENS=9 that lets transformers scale."""
    whole = Image.effect_noise(size, 80).convert("RGB")
    fit = fit_of(pipe.processor.image_processor)
    assert fit is not None
    scaled = whole.resize(fit.capped(9 * 1024).size(*size), Image.Resampling.BICUBIC)
    limited = Encoder(
        load(EngineSettings(model=str(dense_model), max_image_tokens=9, high_image_tokens=9)), slot_tokens=4096
    )

    ours, theirs = (
        each.encode(make_prompt("a", (Turn("user", (RGBImage.from_pil(taken), "what?")),), 1))
        for each, taken in ((encoder, scaled), (limited, whole))
    )

    assert ours.image_sizes == theirs.image_sizes == (scaled.size,)
    assert ours.image_tokens == theirs.image_tokens == (fit.tokens(*scaled.size),)
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(tensor, theirs.tensors[name]) for name, tensor in ours.tensors.items())
