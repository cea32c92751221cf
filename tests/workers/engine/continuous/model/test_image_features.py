from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from workers.engine.continuous.model.image_features import TAIL, ImageFeatures, ImageRows
from workers.engine.continuous.requests import ImageSpan

#: bytes of an image's features
EACH = 2 * 4 * 3 * 4


def image(digest: str, tokens: int = 4) -> ImageSpan:
    return ImageSpan((b"",), 4, tokens, 1, tokens, digest)


class Tower:
    """Sees images as numbers, all in one tensor as the real one does."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def encode_images(self, images: Sequence[ImageSpan]) -> Iterator[tuple[ImageSpan, Tensor]]:
        if images:
            self.seen.append([image.digest for image in images])
            one = torch.cat([seen(image) for image in images], dim=1)
            yield from zip(images, one.split([image.tokens for image in images], dim=1), strict=True)


def seen(image: ImageSpan) -> Tensor:
    """What the tower makes of an image: other numbers for each of its tokens."""
    return (float(ord(image.digest)) + torch.arange(image.tokens) / image.tokens)[None, :, None].expand(2, -1, 3)


def ask(features: ImageFeatures, digests: str, needed_later: str = "", tokens: int = 4, begin: int = 0) -> None:
    """Each is what the tower sees, whether it was kept or not."""
    images = [image(digest, tokens) for digest in digests]
    made = features.get([ImageRows(each, begin, tokens) for each in images], set(needed_later))
    for each, one in zip(images, made, strict=True):
        assert torch.equal(one, seen(each)[:, begin:])


def test_a_image_that_is_asked_about_again_is_not_seen_again() -> None:
    tower = Tower()
    features = ImageFeatures(tower.encode_images, 100 * EACH)
    ask(features, "ab")
    ask(features, "bc")
    ask(features, "cba")

    assert tower.seen == [["a", "b"], ["c"]]
    assert (features.computed, features.reused) == (3, 4)


def test_a_image_twice_in_one_prefill_is_seen_once() -> None:
    tower = Tower()
    features = ImageFeatures(tower.encode_images, 0)
    ask(features, "aba")

    assert tower.seen == [["a", "b"]]
    assert (features.computed, features.reused) == (2, 1)


def test_those_unused_for_longest_go_first() -> None:
    tower = Tower()
    features = ImageFeatures(tower.encode_images, 2 * EACH)
    ask(features, "ab")
    ask(features, "a")
    ask(features, "c")
    ask(features, "ac")
    assert tower.seen == [["a", "b"], ["c"]]

    ask(features, "b")
    assert tower.seen[-1] == ["b"]


def test_without_memory_for_it_nothing_is_kept() -> None:
    tower = Tower()
    features = ImageFeatures(tower.encode_images, 0)
    ask(features, "a")
    ask(features, "a")

    assert tower.seen == [["a"], ["a"]]
    assert not features._whole
    assert not features._tails


def test_what_the_next_chunk_of_a_prompt_needs_stays_beyond_every_limit_and_no_longer() -> None:
    tower = Tower()
    features = ImageFeatures(tower.encode_images, 0)
    ask(features, "ab", needed_later="b")
    ask(features, "bc", needed_later="b")
    ask(features, "b")
    assert tower.seen == [["a", "b"], ["c"]]
    assert not features._whole

    ask(features, "b")
    assert tower.seen[-1] == ["b"]


def test_what_is_kept_does_not_hold_on_to_the_images_that_were_seen_with_it() -> None:
    features = ImageFeatures(Tower().encode_images, 1 * EACH)
    ask(features, "abcd")

    assert [each.untyped_storage().nbytes() for each in features._whole._features.values()] == [EACH]


def test_a_pass_that_needs_the_ends_of_many_images_never_keeps_more_than_the_limit() -> None:
    tower, tokens = Tower(), 4 * TAIL
    whole = 2 * tokens * 3 * 4
    kept: list[int] = []

    def one_by_one(images: Sequence[ImageSpan]) -> Iterator[tuple[ImageSpan, Tensor]]:
        for each in images:
            yield from tower.encode_images([each])
            held = (features._whole, features._tails)
            assert [each.nbytes for each in held] == [sum(t.nbytes for t in each._features.values()) for each in held]
            kept.append(sum(each.nbytes for each in held))

    features = ImageFeatures(one_by_one, 2 * whole)
    ask(features, "abcdefgh", tokens=tokens, begin=tokens - 1)
    assert len(kept) == 8
    assert max(kept) <= 2 * whole


@pytest.mark.parametrize("reuse", [False, True], ids=["not kept", "kept"])
def test_an_image_that_is_used_does_not_hold_on_to_the_images_that_were_seen_with_it(reuse: bool) -> None:
    features = ImageFeatures(Tower().encode_images, reuse * 100 * EACH)
    wanted = [ImageRows(image(digest), digest != "a", 4) for digest in "abcd"]

    assert features.get(wanted, ())[0].untyped_storage().nbytes() == EACH


def test_of_images_that_were_used_longer_ago_the_ends_are_kept() -> None:
    tower, tokens = Tower(), 4 * TAIL
    whole = 2 * tokens * 3 * 4
    features = ImageFeatures(tower.encode_images, 2 * whole)
    for digest in "abcdef":
        ask(features, digest, tokens=tokens)
    assert len(features._whole) == 1
    assert sum(map(len, tower.seen)) == 6

    # half of the memory holds four ends
    for digest in "bcde":
        ask(features, digest, tokens=tokens, begin=tokens - TAIL)
        ask(features, digest, tokens=tokens, begin=tokens - 1)
    assert sum(map(len, tower.seen)) == 6
    assert features.reused == 8
    ask(features, "a", tokens=tokens, begin=tokens - 1)
    ask(features, "b", tokens=tokens, begin=tokens - TAIL - 1)
    assert tower.seen[-2:] == [["a"], ["b"]]


def test_the_ends_of_many_images_do_not_keep_their_wholes_in_memory() -> None:
    features = ImageFeatures(Tower().encode_images, 0)
    wanted = [ImageRows(image(digest, 256), 255, 256) for digest in "abcd"]

    assert [each.untyped_storage().nbytes() for each in features.get(wanted, ())] == [2 * 3 * 4] * 4
