"""Qwen's families, and those with processors like theirs: images in patches that are merged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.workers.engine.conftest import EXPERTS, IMAGES, TEXT, VISION
from tests.workers.engine.pipeline.families.family import PATCHES_OF_14, QWEN2, SMALL, Family, Fields, Ids, config_of

_PADS = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
_ENDS = {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
_PLACE = "<|vision_start|><|image_pad|><|vision_end|>"
_ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
_TEXT_2: dict[str, Any] = {name: value for name, value in TEXT.items() if name != "head_dim"} | {
    "rope_parameters": _ROPE
}
_TEXT_3_5: dict[str, Any] = {
    **TEXT,
    **{"linear_key_head_dim": 16, "linear_value_head_dim": 16},
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4},
    "layer_types": ["linear_attention", "full_attention"],
    "rope_parameters": {
        **_ROPE,
        "mrope_section": [4, 2, 2],
        "mrope_interleaved": True,
        "partial_rotary_factor": 1.0,
    },
}
_VISION_3_5 = {name: value for name, value in VISION.items() if name != "deepstack_visual_indexes"}
_VISION_2 = {"depth": 2, "num_heads": 2, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
_VISION_2_5 = {
    **{"depth": 2, "num_heads": 2, "hidden_size": 32, "intermediate_size": 64},
    **{"out_hidden_size": 64, "window_size": 56},
}


def _qwen(kind: str, processor: str, text: Mapping[str, Any], vision: Mapping[str, Any], **images: Any) -> Family:
    fields = config_of(text, vision, {**_PADS, **_ENDS}, tie_word_embeddings=False)
    written = {**IMAGES, "processor_class": f"{processor}Processor", **images}
    return Family(kind, processor, fields, written, _PLACE, tokens=())


def _glm() -> Fields:
    ends = {
        f"{what}_{end}_token_id": f"<|{word}_of_{what}|>"
        for what in ("image", "video")
        for end, word in (("start", "begin"), ("end", "end"))
    }
    vision = {**_VISION_3_5, "image_size": 112, "patch_size": 14}
    del vision["num_position_embeddings"]
    text = {**_TEXT_2, "rope_parameters": {**_ROPE, "partial_rotary_factor": 1.0}}
    return config_of(text, vision, {"image_token_id": "<|image|>", "video_token_id": "<|video|>", **ends})


_GLM_ENDS = tuple(f"<|{end}_of_{what}|>" for what in ("image", "video") for end in ("begin", "end"))
_ERNIE = {f"{what}{end}_token": f"<|{what}{end}|>" for what in ("image", "video") for end in ("", "_start", "_end")}


def _ernie(ids: Ids) -> dict[str, Any]:
    experts = {"moe_intermediate_size": [16, 16], "moe_k": 2, "moe_num_experts": 4, "moe_num_shared_experts": 1}
    text = {**_TEXT_2, **experts, "mlp_layer_types": ["dense", "sparse"]}
    # height, width and time; height and width alternate
    text["rope_parameters"] = {**_ROPE, "mrope_section": [3, 3, 2]}
    vision = {**SMALL, "depth": 2, "num_heads": 2, "patch_size": 14}
    names = {f"{name}_id": token for name, token in _ERNIE.items()}
    return config_of(text, vision, names, tie_word_embeddings=False)(ids)


QWEN: Mapping[str, Family] = {
    "Qwen2-VL": _qwen("Qwen2VL", "Qwen2VL", _TEXT_2, _VISION_2, **PATCHES_OF_14),
    "Qwen2.5-VL": _qwen("Qwen2_5_VL", "Qwen2_5_VL", _TEXT_2, _VISION_2_5, **PATCHES_OF_14),
    "Qwen3.5": _qwen("Qwen3_5", "Qwen3VL", _TEXT_3_5, _VISION_3_5),
    "Qwen3.5-MoE": _qwen(
        "Qwen3_5Moe", "Qwen3VL", {**_TEXT_3_5, **EXPERTS, "shared_expert_intermediate_size": 32}, _VISION_3_5
    ),
    "GLM-4V": Family(
        "Glm4v",
        "Glm4v",
        _glm(),
        {"image_processor_type": "Glm4vImageProcessor", **PATCHES_OF_14},
        "<|begin_of_image|><|image|><|end_of_image|>",
        {"image_token": "<|image|>", "video_token": "<|video|>"},
        _GLM_ENDS,
    ),
    "ERNIE 4.5 VL": Family(
        "Ernie4_5_VLMoe",
        "Ernie4_5_VLMoe",
        _ernie,
        {"image_processor_type": "Ernie4_5_VLMoeImageProcessor", **PATCHES_OF_14},
        "<|image_start|><|image|><|image_end|>",
        _ERNIE,
        (),
    ),
    "VideoLLaMA3": Family(
        "VideoLlama3",
        "VideoLlama3",
        config_of(QWEN2, {**SMALL, "patch_size": 14}, _PADS),
        {"image_processor_type": "VideoLlama3ImageProcessor", **PATCHES_OF_14},
        "<|image_pad|>",
        tokens=(),
    ),
}
