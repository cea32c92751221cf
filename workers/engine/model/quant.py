"""Which tensors are quantized, by VQA_QUANT or as released, and their sizes. Needs no torch, so slots can be planned.

Quantizes the matrices of the language model, including experts: nearly all of the weights. Excludes what is small or
costs accuracy: embeddings, the vision tower, norms, routers and the output layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any

from workers.engine.settings import EngineSettings, Quant

#: values that share a scale in int4; fp8 and int8 have a scale per row. Scales are float32
INT4_BLOCK = 64
_SCALE_BYTES = 4

#: rows and columns that share a scale in float8 as the continuous engine has it
_BLOCK = 128

#: Added to a tensor's name, names its scales in a checkpoint released in float8. A value times its scale is the weight;
#: "inverse" is meant as of what the weights were multiplied by.
SCALE_SUFFIX = "_scale_inv"

#: the package that implements each; `pip install 'vqa-queue[quant]'` installs them all
PACKAGES: Mapping[Quant, str] = MappingProxyType({"fp8": "torchao", "int8": "torchao", "int4": "bitsandbytes"})

_LAYER = re.compile(r"(?:^|\.)(?:language_model|text_model)\.(?:model\.)?layers\.\d+\.")
_EXPERTS = re.compile(r"(.*\.experts)\.")
_ROUTER = re.compile(r"\.(?:gate|router)\.weight$")


def is_quantized(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor is quantized, by its name in a checkpoint or in a loaded model."""
    if not _LAYER.search(name) or _ROUTER.search(name):
        return False
    return len(shape) == 3 if _EXPERTS.match(name) and not name.endswith(".weight") else len(shape) == 2


def stored_bytes(quant: Quant, shape: Sequence[int]) -> int:
    """Return the bytes of a quantized tensor of this shape, including its scales."""
    values = prod(shape)
    if quant == "int4":
        return values // 2 + -(-values // INT4_BLOCK) * _SCALE_BYTES
    # int8 stores a zero point of one byte per scale
    return values + values // shape[-1] * (_SCALE_BYTES + (quant == "int8"))


def float8_bytes(shape: Sequence[int]) -> int:
    """Return the bytes of a tensor of this shape in float8 with scales of blocks of 128 x 128."""
    blocks = prod(-(-side // _BLOCK) for side in shape[-2:]) * prod(shape[:-2])
    return prod(shape) + blocks * _SCALE_BYTES


def released_quantization(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return how the weights of a checkpoint are quantized, from its config.json; empty if they are not."""
    return config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config") or {}


def is_released_float8(config: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is in float8 as DeepSeek-V3 and Qwen's -FP8: blocks of 128 x 128, dynamic activations."""
    given = released_quantization(config)
    return (
        given.get("quant_method") == "fp8"
        and given.get("fmt", "e4m3") in {"e4m3", "float8_e4m3fn"}
        and list(given.get("weight_block_size") or ()) == [_BLOCK, _BLOCK]
        and given.get("activation_scheme", "dynamic") == "dynamic"
        and given.get("scale_fmt") in {None, "float"}
    )


def runs_in_float8(settings: EngineSettings, config: Mapping[str, Any]) -> bool:
    """Whether the continuous engine is to run a model in float8."""
    return settings.engine == "continuous" and (settings.quant == "fp8" or is_released_float8(config))


def unpacked_with(name: str) -> str:
    """Name the group of tensors that are dequantized at the same time: a layer's experts, else one matrix."""
    experts = _EXPERTS.match(name)
    return experts[1] if experts else name
