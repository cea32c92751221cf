from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.engine.continuous.model.image_features import ImageFeatures
from workers.engine.continuous.requests import ImageSpan

#: bytes of an image's features
EACH = 2 * 4 * 3 * 4


def image(digest: str) -> ImageSpan:
    return ImageSpan((b"",), 4, 4, 1, 4, digest)


class Tower:
    """Sees images as numbers, all in one tensor as the real one does."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def encode_images(self, images: Sequence[ImageSpan]) -> list[Tensor]:
        self.seen.append([image.digest for image in images])
        one = torch.cat([torch.full((2, 4, 3), float(ord(image.digest))) for image in images], dim=1)
        return list(one.split(4, dim=1))


def ask(features: ImageFeatures, digests: str, needed_later: str = "") -> None:
    """Each is what the tower sees, whether it was kept or not."""
    made = features.get([image(digest) for digest in digests], set(needed_later))
    assert made.keys() == set(digests)
    for digest, each in made.items():
        assert torch.equal(each, torch.full((2, 4, 3), float(ord(digest))))


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
    assert not features._cached


def test_what_the_next_chunk_of_a_prompt_needs_stays_beyond_every_limit_and_no_longer() -> None:
    tower = Tower()
    features = ImageFeatures(tower.encode_images, 0)
    ask(features, "ab", needed_later="b")
    ask(features, "bc", needed_later="b")
    ask(features, "b")
    assert tower.seen == [["a", "b"], ["c"]]
    assert not features._cached

    ask(features, "b")
    assert tower.seen[-1] == ["b"]


def test_what_is_kept_does_not_hold_on_to_the_images_that_were_seen_with_it() -> None:
    features = ImageFeatures(Tower().encode_images, 1 * EACH)
    ask(features, "abcd")

    assert [each.untyped_storage().nbytes() for each in features._cached.values()] == [EACH]
