"""Which tensors VQA_QUANT quantizes, and their sizes. Needs no torch, so slots can be planned first.

Quantizes the matrices of the language model, including experts: nearly all of the weights. Excludes what is small or
costs accuracy: embeddings, the vision tower, norms, routers and the output layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from types import MappingProxyType

from workers.engine.settings import Quant

#: values that share a scale in int4; fp8 and int8 have a scale per row. Scales are float32
INT4_BLOCK = 64
_SCALE_BYTES = 4

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


def unpacked_with(name: str) -> str:
    """Name the group of tensors that are dequantized at the same time: a layer's experts, else one matrix."""
    experts = _EXPERTS.match(name)
    return experts[1] if experts else name
