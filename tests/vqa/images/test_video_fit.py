from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqa.images.video_fit import QWEN3_VL, FrameFit, VideoFit


@pytest.mark.parametrize(
    ("frames", "frame_pixels", "size"),
    [
        (2, None, (1920, 1088)),
        (16, None, (1664, 928)),
        (64, None, (832, 448)),
        (1, None, (1920, 1088)),
        (16, 256 * 1024, (672, 384)),
        (64, 4096 * 1024, (832, 448)),
    ],
    ids=["2", "16", "64", "one", "16 low", "64 high"],
)
def test_the_more_frames_the_smaller_each_is(frames: int, frame_pixels: int | None, size: tuple[int, int]) -> None:
    assert QWEN3_VL.for_frames(frames, frame_pixels).size(1920, 1080) == size


@settings(deadline=None, max_examples=200)
@given(
    pairs=st.integers(1, 128),
    width=st.integers(1, 9000),
    height=st.integers(1, 9000),
    most=st.integers(200_000, 30_000_000),
)
def test_a_video_has_at_most_the_pixels_that_are_allowed(pairs: int, width: int, height: int, most: int) -> None:
    fitted = VideoFit(factor=32, min_pixels=4096, max_pixels=most).for_frames(2 * pairs).size(width, height)

    assert all(side % 32 == 0 for side in fitted)
    # a side has at least one token, so that a very long frame may have more
    if min(fitted) > 32:
        assert math.prod(fitted) * 2 * pairs <= most


def test_one_token_a_frame_is_the_least() -> None:
    fit = VideoFit(factor=32, min_pixels=4096, max_pixels=100_000).for_frames(256)

    assert isinstance(fit, FrameFit)
    assert fit.size(1920, 1080) == (32, 32)
