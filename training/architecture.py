"""The model's configuration: a dense Qwen3-VL of about eleven million parameters.

Knows the model's and the image processor's settings; nothing of training.
"""

from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig, Qwen3VLConfig

from training.tokenizer import END, IMAGE, TEXT_END, VIDEO, VISION_END, VISION_START

PATCH, MERGE = 16, 2
CELL = PATCH * MERGE  # side in pixels of the square that one image token covers
MIN_PIXELS, MAX_PIXELS = 64 * 64, 256 * 256


@dataclass(frozen=True)
class Shape:
    """The model's dimensions; tests make them smaller."""

    width: int = 256
    text_layers: int = 6
    text_heads: int = 4
    key_heads: int = 2
    head_width: int = 64
    text_inner: int = 896
    vision_width: int = 192
    vision_layers: int = 6
    vision_heads: int = 3
    vision_inner: int = 640
    deepstack: tuple[int, ...] = (1, 3)


def build_config(tokenizer: Any, shape: Shape = Shape()) -> Qwen3VLConfig:
    """Return the checkpoint's configuration for this tokenizer."""
    number = tokenizer.convert_tokens_to_ids
    half = shape.head_width // 2
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.width,
        "intermediate_size": shape.text_inner,
        "num_hidden_layers": shape.text_layers,
        "num_attention_heads": shape.text_heads,
        "num_key_value_heads": shape.key_heads,
        "head_dim": shape.head_width,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [half - 2 * (half // 3), half // 3, half // 3],
            "mrope_interleaved": True,
        },
        "pad_token_id": number(TEXT_END),
        "bos_token_id": None,
        "eos_token_id": number(END),
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": shape.vision_layers,
        "hidden_size": shape.vision_width,
        "intermediate_size": shape.vision_inner,
        "num_heads": shape.vision_heads,
        "out_hidden_size": shape.width,
        "num_position_embeddings": 256,
        "deepstack_visual_indexes": list(shape.deepstack),
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=number(IMAGE),
        video_token_id=number(VIDEO),
        vision_start_token_id=number(VISION_START),
        vision_end_token_id=number(VISION_END),
        tie_word_embeddings=True,
    )


def generation_config(tokenizer: Any) -> GenerationConfig:
    """Return the settings of `generate`: greedy, with the end tokens."""
    number = tokenizer.convert_tokens_to_ids
    return GenerationConfig(
        do_sample=False, eos_token_id=[number(END), number(TEXT_END)], pad_token_id=number(TEXT_END), max_new_tokens=16
    )


def image_settings() -> dict[str, Any]:
    """Return the image processor's settings, as in preprocessor_config.json."""
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "merge_size": MERGE,
        "patch_size": PATCH,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": MAX_PIXELS, "shortest_edge": MIN_PIXELS},
        "temporal_patch_size": 2,
    }
