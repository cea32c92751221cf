"""Qwen3-VL-30B-A3B's architecture with random weights: the speed of the trained model without its download.

Sizes are those of the published config.json. Tokenizer and chat template are the bundled model's, with tokens added up
to the model's vocabulary. The end token is never the likeliest, so each answer has the requested length. Random weights
send tokens to few experts, which makes a step too fast: see `bench.engine.routing`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    Qwen3VLConfig,
    Qwen3VLMoeConfig,
    pipeline,
)
from transformers.initialization import no_init_weights
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.pipelines.image_text_to_text import ImageTextToTextPipeline

from bench.engine.wide_vocabulary import widened
from bench.stage import TINY
from workers.engine.model.loading import replace_patch_embedding
from workers.engine.model.processor import without_videos
from workers.engine.settings import EngineSettings

#: for machines without a card, `tiny` has smaller sizes, and `tiny-dense` no experts either
Scale = Literal["30b", "tiny", "tiny-dense"]

_ROPE = {"rope_type": "default", "rope_theta": 5_000_000.0, "mrope_interleaved": True}
_TEXT = {
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "max_position_embeddings": 262_144,
    "rope_parameters": {**_ROPE, "mrope_section": [24, 20, 20]},
}
_EXPERTS = {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "norm_topk_prob": True}
_VISION = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_heads": 16,
    "out_hidden_size": 2048,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [8, 16, 24],
}
_TINY_TEXT = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 32_768,
    "rope_parameters": {**_ROPE, "mrope_section": [4, 2, 2]},
}
_TINY_EXPERTS = {**_EXPERTS, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_TINY_VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": 64,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0],
}
_TOKENS = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 3, "vision_end_token_id": 4}
_PAD, _END = 0, 2
#: tokens of single bytes that are not visible ASCII: most are only part of a character
_BYTES = slice(101, 263)
_IMAGES = {
    "size": {"shortest_edge": 64 * 64, "longest_edge": 1024 * 1024},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "Qwen3VLProcessor",
    "image_processor_type": "Qwen2VLImageProcessorFast",
}


def write_folder(folder: Path, scale: Scale) -> Path:
    """Write a model folder without weights, from which a worker plans its slots; `load` makes the weights."""
    config = config_of(scale)
    config.save_pretrained(folder)
    GenerationConfig(eos_token_id=_END, pad_token_id=_PAD, do_sample=False).save_pretrained(folder)
    (folder / "chat_template.jinja").write_bytes((TINY / "chat_template.jinja").read_bytes())
    (folder / "tokenizer.json").write_text(widened(TINY / "tokenizer.json", config.text_config.vocab_size))
    tokenizer = json.loads((TINY / "tokenizer_config.json").read_text()) | {"eos_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "preprocessor_config.json").write_text(json.dumps(_IMAGES))
    size = {"metadata": {"total_size": _weights_bytes(config)}, "weight_map": {}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(size))
    return folder


def load(settings: EngineSettings) -> ImageTextToTextPipeline:
    """Load such a folder as `model.loading.load` would, with random weights: bf16 on a card, else float32."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = AutoConfig.from_pretrained(settings.model)
    model: Any = _empty(config, device, torch.bfloat16 if device == "cuda" else torch.float32)
    _draw(model, torch.Generator(device).manual_seed(0))
    model.generation_config = GenerationConfig.from_pretrained(settings.model)
    replace_patch_embedding(model)
    processor: Any = without_videos(Qwen3VLProcessor).from_pretrained(settings.model, backend="pil")
    processor.tokenizer.padding_side = "left"
    loaded = pipeline("image-text-to-text", model=model.eval(), processor=processor, device=device)
    assert isinstance(loaded, ImageTextToTextPipeline)
    return loaded


def config_of(scale: Scale) -> Any:
    """Return the model config; token ids are the bundled tokenizer's."""
    full = scale == "30b"
    text = {**(_TEXT if full else _TINY_TEXT), "bos_token_id": None, "eos_token_id": None, "pad_token_id": _PAD}
    shared: dict[str, Any] = {
        **_TOKENS,
        "vision_config": {**(_VISION if full else _TINY_VISION), "patch_size": 16, "spatial_merge_size": 2},
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    if scale == "tiny-dense":
        return Qwen3VLConfig(text_config=text, architectures=["Qwen3VLForConditionalGeneration"], **shared)
    text |= _EXPERTS if full else _TINY_EXPERTS
    return Qwen3VLMoeConfig(text_config=text, architectures=["Qwen3VLMoeForConditionalGeneration"], **shared)


def _empty(config: Any, device: str, dtype: torch.dtype) -> Any:
    """Make the model on the device with uninitialized weights."""
    with torch.device(device), no_init_weights():
        return AutoModelForImageTextToText.from_config(config, dtype=dtype)


def _draw(model: Any, generator: torch.Generator) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(False)
            if parameter.dim() > 1:
                parameter.normal_(0, 0.02, generator=generator)
            else:
                # norm weights and biases
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        # Their logits are 0 and the largest logit is not, so they are never generated: answers do not end early, and
        # may be cut after any token.
        model.lm_head.weight[_END] = 0
        model.lm_head.weight[_BYTES] = 0


def _weights_bytes(config: Any) -> int:
    model: Any = _empty(config, "meta", torch.bfloat16)
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
