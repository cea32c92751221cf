"""LLaVA's families, and those that have its parts: images in squares, one or several tiles each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.workers.engine.pipeline.families.family import (
    CLIP,
    LLAMA,
    MISTRAL,
    QWEN2,
    SIGLIP,
    SMALL,
    SQUARE,
    TEXT,
    TILES,
    Family,
    config_of,
)

_IMAGE = {"image_token_index": "<image>"}
_VIDEO = {**_IMAGE, "video_token_index": "<video>"}
_MEDIA = ("<image>", "<video>")
_CROPPED = {"size": {"shortest_edge": 32}, "crop_size": SQUARE}
_TOWER = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
_PIXTRAL = {**SMALL, "model_type": "pixtral", "image_size": 128, "patch_size": 8}
_PIXTRAL_IMAGES = {
    "image_processor_type": "PixtralImageProcessorFast",
    "patch_size": {"height": 8, "width": 8},
    "size": {"longest_edge": 64},
}
_PIXTRAL_TOKENS = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")
_AYA = ("<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL")
_INTERNVL = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}


def _in_tiles(kind: str) -> dict[str, Any]:
    return {"image_processor_type": f"{kind}ImageProcessor", "size": SQUARE, "crop_to_patches": True}


LLAVA: Mapping[str, Family] = {
    "LLaVA": Family(
        "Llava",
        "Llava",
        config_of(LLAMA, CLIP, _IMAGE),
        {"image_processor_type": "CLIPImageProcessor", **_CROPPED},
        settings=_TOWER,
    ),
    "LLaVA-NeXT": Family(
        "LlavaNext",
        "LlavaNext",
        config_of(LLAMA, CLIP, _IMAGE, **TILES),
        {"image_processor_type": "LlavaNextImageProcessor", **_CROPPED, **TILES},
        settings=_TOWER,
    ),
    "LLaVA-NeXT-Video": Family(
        "LlavaNextVideo",
        "LlavaNextVideo",
        config_of(LLAMA, CLIP, _VIDEO, **TILES),
        {"image_processor_type": "LlavaNextImageProcessor", **_CROPPED, **TILES},
        tokens=_MEDIA,
        settings=_TOWER,
    ),
    "LLaVA-OneVision": Family(
        "LlavaOnevision",
        "LlavaOnevision",
        config_of(QWEN2, SIGLIP, _VIDEO, **TILES),
        {"image_processor_type": "LlavaOnevisionImageProcessor", "size": SQUARE, **TILES},
        tokens=_MEDIA,
        settings={"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
    ),
    "Video-LLaVA": Family(
        "VideoLlava",
        "VideoLlava",
        config_of(LLAMA, CLIP, _VIDEO),
        {"image_processor_type": "VideoLlavaImageProcessor", **_CROPPED},
        tokens=_MEDIA,
        settings=_TOWER,
    ),
    "Pixtral": Family(
        "Llava",
        "Pixtral",
        config_of(
            MISTRAL,
            _PIXTRAL,
            {"image_token_index": "[IMG]"},
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        ),
        _PIXTRAL_IMAGES,
        "[IMG]",
        tokens=_PIXTRAL_TOKENS,
        settings={"patch_size": 8},
    ),
    "Mistral 3": Family(
        "Mistral3",
        "Pixtral",
        config_of(MISTRAL, _PIXTRAL, {"image_token_index": "[IMG]"}),
        _PIXTRAL_IMAGES,
        "[IMG]",
        tokens=_PIXTRAL_TOKENS,
        settings={"patch_size": 8, "spatial_merge_size": 2},
    ),
    "InternVL": Family(
        "InternVL",
        "InternVL",
        config_of(
            QWEN2,
            {**SMALL, "image_size": [32, 32], "patch_size": [8, 8]},
            {"image_token_id": "<IMG_CONTEXT>"},
            image_seq_length=4,
        ),
        _in_tiles("GotOcr2"),
        "<IMG_CONTEXT>",
        _INTERNVL,
        (),
        {"image_seq_length": 4},
    ),
    "Aya Vision": Family(
        "AyaVision",
        "AyaVision",
        config_of({**TEXT, "model_type": "cohere2"}, SIGLIP, {"image_token_index": "<|IMG_PATCH|>"}),
        _in_tiles("GotOcr2"),
        tokens=_AYA,
        settings={"patch_size": 8, "img_size": 32, "downsample_factor": 2},
    ),
}
