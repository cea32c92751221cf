"""Gemma's, Idefics's and Llama's families."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.workers.engine.pipeline.families.family import (
    LLAMA,
    MISTRAL,
    SIGLIP,
    SMALL,
    SQUARE,
    TEXT,
    Family,
    Ids,
    config_of,
)

#: with the embeddings at both ends, random models repeat the last token
_UNTIED: dict[str, Any] = {"tie_word_embeddings": False}
_GEMMA = {**TEXT, **_UNTIED, "head_dim": 16, "num_key_value_heads": 1}
_GEMMA_3 = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
_GEMMA_4 = {
    **{"boi_token": "<|image>", "eoi_token": "<image|>", "image_token": "<|image|>"},
    **{"boa_token": "<|audio>", "eoa_token": "<audio|>", "audio_token": "<|audio|>"},
}
_IDEFICS = ("<image>", "<video>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>")
_IDEFICS += tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
_IDEFICS_2 = {
    **{"resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 2, "resampler_head_dim": 16},
    **{"hidden_size": 32, "num_key_value_heads": 2},
}
_MLLAMA_VISION = {
    **{
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_global_layers": 1,
        "attention_heads": 2,
    },
    **{"image_size": 32, "patch_size": 8, "max_num_tiles": 2, "vision_output_dim": 64, "initializer_range": 0.25},
    **{"intermediate_layers_indices": [1], "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]]},
}


def _gemma_4(ids: Ids) -> dict[str, Any]:
    text = {
        **_GEMMA,
        **{"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 1100},
        "layer_types": ["sliding_attention", "full_attention"],
    }
    vision = {**SMALL, "num_key_value_heads": 2, "head_dim": 16, "patch_size": 8, "pooling_kernel_size": 2}
    vision["position_embedding_size"] = 256
    names = {f"{name}_id": _GEMMA_4[name] for name in ("boi_token", "eoi_token", "image_token", "audio_token")}
    names |= {"video_token_id": "<|video|>", "boa_token_id": "<|audio>", "eoa_token_index": "<audio|>"}
    return config_of(text, vision, names, **_UNTIED)(ids)


def _split(kind: str, since: str) -> Family:
    sizes = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
    return Family(
        kind,
        kind,
        config_of(LLAMA, SIGLIP, {"image_token_id": "<image>"}),
        {"image_processor_type": f"{kind}ImageProcessor", **sizes},
        tokens=_IDEFICS,
        settings={"image_seq_len": 4},
        since=since,
    )


OTHERS: Mapping[str, Family] = {
    "Gemma 3": Family(
        "Gemma3",
        "Gemma3",
        config_of(
            _GEMMA,
            SIGLIP,
            {f"{name}_index": token for name, token in _GEMMA_3.items()},
            mm_tokens_per_image=4,
            **_UNTIED,
        ),
        {"image_processor_type": "Gemma3ImageProcessor", "size": SQUARE},
        "<start_of_image>",
        _GEMMA_3,
        (),
        {"image_seq_length": 4},
    ),
    "Gemma 4": Family(
        "Gemma4",
        "Gemma4",
        _gemma_4,
        {
            "image_processor_type": "Gemma4ImageProcessor",
            **{"patch_size": 8, "max_soft_tokens": 70, "pooling_kernel_size": 2},
        },
        "<|image|>",
        _GEMMA_4,
        ("<|video|>",),
        {"image_seq_length": 70, "feature_extractor": {"feature_extractor_type": "Gemma4AudioFeatureExtractor"}},
        "5.21",
    ),
    "PaliGemma": Family(
        "PaliGemma",
        "PaliGemma",
        config_of(
            {**_GEMMA, "model_type": "gemma"},
            {**SIGLIP, "projection_dim": 32},
            {"image_token_index": "<image>"},
            projection_dim=32,
            **_UNTIED,
        ),
        {"image_processor_type": "SiglipImageProcessor", "size": SQUARE, "image_seq_length": 16},
    ),
    "SmolVLM": _split("SmolVLM", "5.21"),
    "Idefics3": _split("Idefics3", "5.18"),
    "Idefics2": Family(
        "Idefics2",
        "Idefics2",
        config_of(MISTRAL, SIGLIP, {"image_token_id": "<image>"}, perceiver_config=_IDEFICS_2),
        {"image_processor_type": "Idefics2ImageProcessor", "size": {"shortest_edge": 16, "longest_edge": 32}},
        tokens=_IDEFICS,
        settings={"image_seq_len": 4},
        since="5.18",
    ),
    "Mllama": Family(
        "Mllama",
        "Mllama",
        config_of({**TEXT, "cross_attention_layers": [1]}, _MLLAMA_VISION, {"image_token_index": "<|image|>"}),
        {"image_processor_type": "MllamaImageProcessor", "size": SQUARE, "max_image_tiles": 2},
        "<|image|>",
        tokens=("<|image|>", "<|python_tag|>"),
    ),
}
