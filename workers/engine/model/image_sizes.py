"""The sizes at which an image processor shows images to its model: read, lowered to the settings', and logged."""

from __future__ import annotations

import logging
from typing import Any

from PIL import Image

from vqa.images.fit import Fit
from workers.engine.detail import ImageTokens
from workers.engine.settings import TEXT_TOKENS, EngineSettings

log = logging.getLogger(__name__)

#: name of the image processor's class, for all backends, in transformers
QWEN_PROCESSOR = "Qwen2VLImageProcessor"

#: Pillow's names of its filters
FILTERS = {filter.value: filter.name.lower() for filter in Image.Resampling}


def fit_of(image_processor: Any) -> Fit | None:
    """Return how an image processor scales images; None if it is not Qwen-VL's, or does not scale them."""
    if not type(image_processor).__name__.startswith(QWEN_PROCESSOR) or not image_processor.do_resize:
        return None
    if image_processor.resample not in FILTERS:
        return None
    size = dict(image_processor.size or {})
    return read_fit(image_processor) if size.get("shortest_edge") and size.get("longest_edge") else None


def read_fit(image_processor: Any) -> Fit:
    """Return how a Qwen-VL image processor scales images."""
    size = image_processor.size
    factor = int(image_processor.patch_size) * int(image_processor.merge_size)
    resample = int(image_processor.resample)
    return Fit(factor, min_pixels=int(size["shortest_edge"]), max_pixels=int(size["longest_edge"]), resample=resample)


def cap_images(image_processor: Any, settings: EngineSettings) -> None:
    """Lower the processor's limit of pixels per image, if it has one (Qwen's do); never raise it. Log the limits."""
    size = dict(image_processor.size or {})
    patch, merge = getattr(image_processor, "patch_size", None), getattr(image_processor, "merge_size", None)
    if not isinstance(patch, int) or not isinstance(merge, int) or not {"longest_edge", "shortest_edge"} <= size.keys():
        log.info("the model's image processor decides how large images are seen; a job's `detail` has no effect")
        return
    token, own, fit = (patch * merge) ** 2, int(size["longest_edge"]), fit_of(image_processor)
    most = (settings.high_image_tokens if fit else settings.max_image_tokens) * token
    if own > most:
        least = min(int(size["shortest_edge"]), most)
        image_processor.size = type(image_processor.size)(longest_edge=most, shortest_edge=least)
    if fit is not None:
        _log_limits(fit, settings)
    else:
        log.info(
            "images are seen at up to %s tokens (VQA_MAX_IMAGE_TOKENS); the model's own limit is %s; a job's `detail` "
            "has no effect",
            f"{min(most, own) // token:,}",
            f"{own // token:,}",
        )


def _log_limits(own: Fit, settings: EngineSettings) -> None:
    """Say how large images are seen; `own` is the model's. Warn if a slot is too small for one image."""
    tokens, token = ImageTokens.from_settings(settings), own.factor**2
    low, auto, high = (min(most, own.max_pixels // token) for most in (tokens.low, tokens.auto, tokens.high))
    log.info(
        "images are seen at up to %s tokens (VQA_MAX_IMAGE_TOKENS), with detail low %s, high %s "
        "(VQA_HIGH_IMAGE_TOKENS); the model's own limits are %s to %s tokens of %d x %d pixels, its filter is %s",
        *(f"{each:,}" for each in (auto, low, high, own.min_pixels // token, own.max_pixels // token)),
        *(own.factor, own.factor, FILTERS.get(own.resample, own.resample)),
    )
    for detail, most, level in (("auto", auto, logging.WARNING), ("high", high, logging.INFO)):
        if most + TEXT_TOKENS > settings.slot_tokens:
            log.log(
                level,
                "a slot of %d tokens (VQA_SLOT_TOKENS) is small for an image of %d (detail %s), a question and an "
                "answer: jobs that need more fail unless they allow shrink_images; VQA_SLOT_TOKENS=%d is enough",
                *(settings.slot_tokens, most, detail, most + TEXT_TOKENS),
            )
            break
