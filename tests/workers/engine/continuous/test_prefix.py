from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.workers.engine.conftest import image, make_prompt
from workers.engine.base import Prompt, Turn
from workers.engine.continuous.encode import RequestEncoder
from workers.engine.continuous.prefix import block_hashes
from workers.engine.continuous.requests import ImageSpan
from workers.engine.image import RGBImage
from workers.engine.video import Video

SIZE = 4

#: text is a number, an image the letter of its digest and the number of its tokens
parts = st.lists(st.one_of(st.integers(0, 2), st.tuples(st.sampled_from("ab"), st.integers(1, 6))), max_size=12)


def made(parts: list[Any]) -> tuple[torch.Tensor, list[ImageSpan], list[object]]:
    """Tokens, images, and what each token stands for."""
    tokens: list[int] = []
    images: list[ImageSpan] = []
    seen: list[object] = []
    for part in parts:
        if isinstance(part, int):
            tokens.append(part)
            seen.append(part)
        else:
            digest, count = part
            images.append(ImageSpan((b"",), 2, 2 * count, len(tokens), count, digest))
            tokens += [9] * count
            seen += [(digest, count, number) for number in range(count)]
    return torch.tensor(tokens, dtype=torch.int64), images, seen


def hashes(parts: list[Any], salt: str = "") -> tuple[bytes, ...]:
    tokens, images, _ = made(parts)
    return block_hashes(tokens, images, SIZE, salt)


@settings(deadline=None, max_examples=150)
@given(one=parts, other=parts, common=parts)
def test_blocks_have_one_hash_exactly_if_all_up_to_their_end_is_the_same(
    one: list[Any], other: list[Any], common: list[Any]
) -> None:
    pairs = [(hashes(common + each), made(common + each)[2]) for each in (one, other)]
    (first, first_seen), (second, second_seen) = pairs

    assert [len(first), len(second)] == [len(first_seen) // SIZE, len(second_seen) // SIZE]
    for number, (left, right) in enumerate(zip(first, second, strict=False), start=1):
        assert (left == right) == (first_seen[: SIZE * number] == second_seen[: SIZE * number])
    assert len({*first}) == len(first)


def test_a_hash_is_of_128_bits_and_the_same_in_every_process() -> None:
    assert [each.hex() for each in hashes([1, 2, 0, ("a", 2)], "m t")] == ["9e672222bb2406aef07a4d95679dad98"]


@pytest.mark.parametrize(
    "other",
    [
        ImageSpan((b"",), 2, 4, 1, 2, "b"),
        ImageSpan((b"",), 4, 2, 1, 2, "a"),
        ImageSpan((b"",), 2, 4, 2, 2, "a"),
    ],
    ids=["other-pixels", "other-grid", "other-place"],
)
def test_an_image_of_other_pixels_grid_or_place_gives_another_hash(other: ImageSpan) -> None:
    tokens = torch.full((SIZE,), 9)
    image = ImageSpan((b"",), 2, 4, 1, 2, "a")

    assert block_hashes(tokens, [image], SIZE, "") != block_hashes(tokens, [other], SIZE, "")


def test_an_image_does_not_change_blocks_before_it_and_does_change_all_from_its_first() -> None:
    one, other = (hashes([0] * 6 + [(digest, 6)] + [0] * 8) for digest in "ab")

    assert [left == right for left, right in zip(one, other, strict=True)] == [True, *[False] * 4]


def test_prompts_with_other_salts_have_no_hash_in_common() -> None:
    assert not {*hashes([1] * 12, "one")} & {*hashes([1] * 12, "two")}


def frames(*numbers: int) -> Video:
    """A video of frames of these shades."""
    shown = tuple(RGBImage.from_pil(Image.new("RGB", (64, 64), (number, 0, 0))) for number in numbers)
    return Video(shown, tuple(map(float, range(len(numbers)))))


def prompt(*parts: str | RGBImage | Video, salt: str = "") -> Prompt:
    asked = make_prompt("a", (Turn("user", parts),), 4)
    return Prompt(asked.id, asked.turns, asked.params, cache_salt=salt)


class Encoding:
    """The bundled model's encoder, with blocks of SIZE tokens."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __call__(self, *parts: str | RGBImage | Video, salt: str = "", model: str = "m@1") -> tuple[bytes, ...]:
        encoder = RequestEncoder(self._processor, 4096, block_size=SIZE, model=model)
        request = encoder.encode(prompt(*parts, salt=salt))
        assert len(request.block_hashes) == request.num_tokens // SIZE
        return request.block_hashes


@pytest.fixture
def encoding(bundled: Any) -> Encoding:
    return Encoding(bundled.processor)


def common(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> int:
    return len({*one} & {*other})


def test_two_questions_about_one_image_begin_alike(encoding: Encoding) -> None:
    one, other = encoding(image(1), "what is it? " * 4), encoding(image(1), "how many? " * 4)

    assert 0 < common(one, other) < len(one)
    assert common(one, encoding(image(2), "what is it? " * 4)) < common(one, other)


@pytest.mark.parametrize(
    ("first", "second"),
    [((1, 2), (1, 3)), ((1, 2), (3, 2)), ((1, 2), (2, 1)), ((1, 1), (1, 2))],
    ids=["second-frame", "first-frame", "swapped", "still"],
)
def test_videos_that_differ_in_any_frame_do_not_begin_alike(
    encoding: Encoding, first: tuple[int, ...], second: tuple[int, ...]
) -> None:
    one, other = encoding(frames(*first), "what happens? " * 4), encoding(frames(*second), "what happens? " * 4)

    assert len(one) == len(other)
    assert common(one, encoding(frames(*first), "what happens? " * 4)) == len(one)
    assert common(one, other) < len(one)
    # from the first block with the frames on
    assert one[-1] != other[-1]


@pytest.mark.parametrize("change", [{"salt": "tenant"}, {"model": "m@2"}], ids=["salt", "model"])
def test_a_salt_and_another_model_keep_prompts_apart(encoding: Encoding, change: dict[str, str]) -> None:
    text = "what is it? " * 8

    assert common(encoding(text), encoding(text)) > 0
    assert common(encoding(text), encoding(text, **change)) == 0


def test_features_of_images_are_not_shared_by_prompts_with_other_salts(bundled: Any) -> None:
    encoder = RequestEncoder(bundled.processor, 4096)
    digests = [encoder.encode(prompt(image(1), salt=salt)).images[0].digest for salt in ("", "", "a", "a", "b")]

    assert digests[0] == digests[1] == image(1).digest
    assert digests[2] == digests[3]
    assert len({*digests}) == 3


def test_nothing_is_hashed_without_a_block_size(bundled: Any) -> None:
    assert RequestEncoder(bundled.processor, 4096).encode(prompt("what is it? " * 8)).block_hashes == ()
