"""Which tensors of a model VQA_QUANT stores in fewer bits, and in how many bytes: no torch, so slots can be planned.

The language model's matrices, experts included: nearly all of the weights. What is small or costs accuracy stays as it
is: embeddings, the vision tower, norms, routers, the output layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from types import MappingProxyType

from workers.engine.settings import Quant

#: values that share a scale in int4; fp8 and int8 have one a row. Each scale is a float32
INT4_BLOCK = 64
_SCALE_BYTES = 4

#: the package that stores and multiplies; `pip install 'vqa-queue[quant]'` brings them all
PACKAGES: Mapping[Quant, str] = MappingProxyType({"fp8": "torchao", "int8": "torchao", "int4": "bitsandbytes"})

_LAYER = re.compile(r"(?:^|\.)(?:language_model|text_model)\.(?:model\.)?layers\.\d+\.")
_EXPERTS = re.compile(r"(.*\.experts)\.")
_ROUTER = re.compile(r"\.(?:gate|router)\.weight$")


def is_quantized(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor of that name, in a checkpoint or in a loaded model, is stored in fewer bits."""
    if not _LAYER.search(name) or _ROUTER.search(name):
        return False
    return len(shape) == 3 if _EXPERTS.match(name) and not name.endswith(".weight") else len(shape) == 2


def stored_bytes(quant: Quant, shape: Sequence[int]) -> int:
    """What a quantised tensor of this shape takes, scales included."""
    values = prod(shape)
    if quant == "int4":
        return values // 2 + -(-values // INT4_BLOCK) * _SCALE_BYTES
    # int8 keeps a zero point of a byte beside each scale
    return values + values // shape[-1] * (_SCALE_BYTES + (quant == "int8"))


def unpacked_with(name: str) -> str:
    """What is unpacked at the same time has this in common: a layer's experts, else one matrix."""
    experts = _EXPERTS.match(name)
    return experts[1] if experts else name
