from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vqa.errors import InvalidJob
from vqa.images.fit import Fit
from vqa.jobs.message import Detail
from workers.engine.detail import ImageTokens
from workers.engine.settings import EngineSettings
from workers.media.limits import ImageLimits
from workers.media.request import ImageRequest

USUAL = ImageTokens.from_settings(EngineSettings())
SMALL = ImageTokens.from_settings(EngineSettings(max_image_tokens=100))


@pytest.mark.parametrize(
    ("tokens", "detail", "bound", "most"),
    [
        (USUAL, "low", None, 256),
        (USUAL, "auto", None, 1024),
        (USUAL, "high", None, 4096),
        (USUAL, "high", 2000, 2000),
        (USUAL, "auto", 2000, 1024),
        (USUAL, "low", 100, 100),
        (SMALL, "low", None, 100),
        (SMALL, "auto", None, 100),
    ],
)
def test_the_least_of_detail_and_bound_counts(
    tokens: ImageTokens, detail: Detail, bound: int | None, most: int
) -> None:
    assert tokens.most(detail, bound) == most


def test_a_bound_over_the_workers_is_refused_by_the_settings_name() -> None:
    with pytest.raises(InvalidJob, match=r"max_image_tokens=4097 is more than .*VQA_HIGH_IMAGE_TOKENS=4096"):
        USUAL.most("low", 4097)


def test_what_is_published_are_the_usual_sizes_and_the_pixels_of_the_highest_detail() -> None:
    about = USUAL.about(Fit(32, min_pixels=65_536, max_pixels=4096 * 1024))
    assert about == {"factor": 32, "min_pixels": 65_536, "max_pixels": 1024 * 1024, "high": 4096 * 1024, "resample": 3}


@settings(deadline=None, max_examples=200)
@given(
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    tokens=st.integers(4, 300),
    least=st.sampled_from([4, 64]),
    longest=st.sampled_from([64, 16_384]),
)
def test_an_image_under_any_limit_has_the_size_of_a_processor_with_that_limit(
    width: int, height: int, tokens: int, least: int, longest: int
) -> None:
    """As VQA_MAX_IMAGE_TOKENS sets the processor's limits; as the decoders scale images and answers count tokens."""
    assume(max(width, height) <= 200 * min(width, height))
    fit = Fit(32, least * 1024, longest * 1024).capped(tokens * 1024)
    most = min(tokens, longest) * 1024
    size = {"shortest_edge": min(least * 1024, most), "longest_edge": most}
    processor: Any = Qwen2VLImageProcessorPil(patch_size=16, merge_size=2, size=size)
    patches = processor.get_number_of_image_patches(height, width)
    fitted = fit.size(width, height)
    assert fit.tokens(*fitted) * 4 == patches
    decoded = ImageLimits(1, 1, 1, Fit(32, least * 1024, longest * 1024)).for_request(ImageRequest(b"", tokens * 1024))
    assert decoded.fit == fit


def test_the_processor_of_transformers_makes_the_same_size() -> None:
    processor: Any = Qwen2VLImageProcessorPil(
        patch_size=16, merge_size=2, size={"shortest_edge": 4096, "longest_edge": 50 * 1024}
    )
    fit = Fit(32, 4096, 64 * 1024).capped(50 * 1024)
    for width, height in ((1000, 500), (40, 4000), (6400, 40), (33, 35), (300, 301)):
        made = processor(Image.new("RGB", (width, height)), return_tensors="pt")
        _, rows, columns = made["image_grid_thw"][0].tolist()
        assert fit.size(width, height) == (columns * 16, rows * 16)
