from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.workers.engine.conftest import SPECIAL, image, make_prompt
from tests.workers.engine.continuous.conftest import Bench
from vqa.errors import InvalidJob, PromptTooLong, VQAError
from workers.engine.base import Prompt, Turn
from workers.engine.continuous.encode import RequestEncoder
from workers.engine.continuous.requests import Request
from workers.engine.image import RGBImage
from workers.engine.model.image_sizes import read_fit
from workers.engine.pipeline.encoding import Encoder, ModelInputs
from workers.engine.video import Video

words = st.lists(st.one_of(st.sampled_from([*SPECIAL, "<|im_", "start|>", "<|"]), st.text(max_size=6)), max_size=4)
#: numbers stand for images
parts = st.lists(st.one_of(words.map("".join), st.integers(0, 5)), max_size=5)
chats = st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), parts), min_size=1, max_size=4)


def assert_alike(bench: Bench, *turns: Turn) -> None:
    """This engine and transformers' own processor make the same of a prompt, or both refuse it."""
    prompt = make_prompt("a", turns, 4)
    made, expected = (outcome(encoder, prompt) for encoder in (bench.encoder, Encoder(bench.pipe, slot_tokens=4096)))
    if not (isinstance(made, Request) and isinstance(expected, ModelInputs)):
        assert type(made) is type(expected)
        return
    assert made.tokens.tolist() == expected.tensors["input_ids"][0].tolist()
    assert bench.encoder.count_tokens(made) == expected.prompt_tokens == made.num_tokens
    grids = expected.tensors.get("image_grid_thw", torch.empty(0, 3)).tolist()
    assert [[1, span.rows, span.columns] for span in made.images] == grids
    for span in made.images:
        assert set(made.tokens[span.start : span.stop].tolist()) == {bench.pipe.processor.image_token_id}
    if made.images:
        pixels = bench.vision._patches(made.images)
        torch.testing.assert_close(pixels, expected.tensors["pixel_values"], rtol=0, atol=1e-6)


def outcome(encoder: Any, prompt: Prompt) -> Request | ModelInputs | VQAError:
    try:
        made: Request | ModelInputs = encoder.encode(prompt)
    except VQAError as error:
        return error
    return made


@settings(deadline=None, max_examples=80)
@given(chat=chats)
def test_a_prompt_becomes_the_numbers_that_transformers_makes_of_it(
    dense_bench: Bench, chat: list[tuple[str, list[str | int]]]
) -> None:
    def part(given: str | int) -> str | RGBImage:
        return image(given) if isinstance(given, int) else given

    assert_alike(dense_bench, *(Turn(role, tuple(map(part, parts))) for role, parts in chat))


def test_what_is_refused_is_refused_as_transformers_does(dense_bench: Bench) -> None:
    for parts in ((), ("", image())):
        assert isinstance(outcome(dense_bench.encoder, make_prompt("a", (Turn("assistant", parts),), 4)), InvalidJob)
        assert_alike(dense_bench, Turn("assistant", parts))


@pytest.mark.parametrize("text", ["", "what?", "<|image_pad|>", "<|im_end|>\n<|im_start|>system\n", "é日本 🙂"])
@pytest.mark.parametrize("images", [0, 1, 3])
def test_so_it_does_for_the_bundled_model(bundled_bench: Bench, images: int, text: str) -> None:
    parts = [part for number in range(images) for part in (image(number), text)]

    assert_alike(bundled_bench, Turn("user", (*parts, text)))
    assert_alike(bundled_bench, Turn("user", (*parts, text)), Turn("assistant", (text + "So",)))


@settings(deadline=None, max_examples=60)
@given(width=st.integers(1, 9000), height=st.integers(1, 9000))
# so narrow that the least height is too much of it, and so small that rounding up is
@example(width=4000, height=20)
@example(width=65, height=33)
def test_a_image_scaled_to_the_models_size_is_taken_as_it_is(bundled_bench: Bench, width: int, height: int) -> None:
    size = read_fit(bundled_bench.pipe.processor.image_processor).size(width, height)
    scaled = RGBImage.from_pil(Image.new("RGB", size, "red"))

    (span,) = bundled_bench.request(make_prompt("a", (Turn("user", (scaled,)),), 4)).images

    assert (span.columns * 16, span.rows * 16) == size
    assert span.tokens == span.patches // 4


@pytest.mark.parametrize("size", [(33, 64), (64, 63), (16, 16), (1000, 1000)])
def test_a_image_of_another_size_is_refused(dense_bench: Bench, size: tuple[int, int]) -> None:
    wrong = RGBImage.from_pil(Image.new("RGB", size))

    with pytest.raises(InvalidJob):
        dense_bench.request(make_prompt("a", (Turn("user", (wrong, "what?")),), 4))


def test_a_template_without_a_place_for_images_in_a_turn_is_told(dense: Any) -> None:
    processor = copy.deepcopy(dense.processor)
    processor.chat_template = (
        "{% for m in messages %}{% for c in m['content'] %}{{ c.get('text', '') }}{% endfor %}{% endfor %}"
    )
    encoder = RequestEncoder(processor, slot_tokens=4096)

    with pytest.raises(InvalidJob, match="no place for an image"):
        encoder.encode(make_prompt("a", (Turn("user", ("what?", image())),), 4))


def test_a_prompt_that_is_longer_than_a_slot_is_told_with_its_length(dense: Any) -> None:
    encoder = RequestEncoder(dense.processor, slot_tokens=64)
    # 96 x 96 pixels are 9 tokens
    assert encoder.encode(make_prompt("a", (Turn("user", (image(1), "?")),), 64 - 31)).num_tokens == 9 + 22

    with pytest.raises(PromptTooLong, match=r"31 prompt tokens and max_new_tokens=34 .*VQA_SLOT_TOKENS"):
        encoder.encode(make_prompt("a", (Turn("user", (image(1), "?")),), 34))


def test_an_image_whose_pixels_are_fewer_than_its_size_says_is_refused_before_any_pass(dense: Any) -> None:
    whole = image(0)
    short = replace(whole, pixels=whole.pixels[:-1], digest="short")
    encoder = RequestEncoder(dense.processor, slot_tokens=512)

    def encode(*frames: RGBImage) -> Request:
        shown = frames[0] if len(frames) == 1 else Video(frames, (0.0, 0.5))
        return encoder.encode(make_prompt("a", (Turn("user", (shown, "?")),), 4))

    assert encode(whole).images
    assert encode(whole, whole).images
    for frames in ((short,), (whole, short), (short, whole)):
        with pytest.raises(InvalidJob, match="ValueError"):
            encode(*frames)
