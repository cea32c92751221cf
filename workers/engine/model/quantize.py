"""Quantizes a model while transformers loads it (VQA_QUANT), experts included, and runs quantized experts.

Uses transformers' integrations: torchao for fp8 and int8, bitsandbytes' NF4 for int4. The others do not suit:
fine-grained fp8 downloads kernels from the hub when it runs, and bitsandbytes' int8 has no experts. Each weight is
quantized as it arrives on the card, so at most one is there at full size.
"""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig, TorchAoConfig
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

from vqa.errors import NotReady
from workers.engine.model.quant import INT4_BLOCK, PACKAGES, is_quantized
from workers.engine.settings import EngineSettings

#: the value of `experts_implementation`
EXPERTS = "vqa_packed"
#: suffixes of the names of expert weights
PARTS = (".experts.gate_up_proj", ".experts.down_proj")


def register_experts() -> None:
    ALL_EXPERTS_FUNCTIONS.register(EXPERTS, _experts_forward)


def dequantize(weight: Any) -> Tensor:
    """Return a weight in the model's dtype; an unquantized weight unchanged."""
    if (state := getattr(weight, "quant_state", None)) is not None:
        from bitsandbytes.functional import dequantize_4bit

        return cast(Tensor, dequantize_4bit(weight.data, state))
    if not hasattr(weight, "qdata"):
        return cast(Tensor, weight)
    # torchao's own dequantize goes through float32: three times the memory and time
    stored, scale = weight.qdata, weight.scale.to(weight.dtype)
    return torch.mul(stored, scale) if stored.dtype == torch.int8 else stored.to(weight.dtype).mul_(scale)


class _DequantizedExperts:
    """Wraps an experts module; dequantizes a weight when it is read."""

    def __init__(self, experts: nn.Module) -> None:
        self._experts = experts

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._experts, name)
        return dequantize(value) if isinstance(value, nn.Parameter) else value


def _experts_forward(experts: Any, hidden: Tensor, experts_of: Tensor, weights_of: Tensor) -> Tensor:
    # transformers passes these arguments by position
    # what reads only attributes of the module
    module = cast(nn.Module, _DequantizedExperts(experts))
    return grouped_mm_experts_forward(module, hidden, experts_of, weights_of)


def quantization_arguments(settings: EngineSettings, config: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Return the arguments of `from_pretrained`; empty if VQA_QUANT is none. Raises NotReady."""
    if settings.quant == "none":
        return {}
    package = PACKAGES[settings.quant]
    if find_spec(package) is None:
        raise NotReady(f"VQA_QUANT={settings.quant} needs {package}: pip install 'vqa-queue[quant]'")
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(deepcopy(config), trust_remote_code=settings.trust_remote_code)
    chosen = names_to_quantize(model, settings)
    how = _nf4(model, chosen, dtype) if settings.quant == "int4" else _torchao(settings, chosen)
    arguments: dict[str, Any] = {"quantization_config": how}
    if any(name.endswith(PARTS) for name in chosen):
        register_experts()
        arguments["experts_implementation"] = EXPERTS
    return arguments


def names_to_quantize(model: nn.Module, settings: EngineSettings) -> list[str]:
    """Return the names of the parameters to quantize. Raises NotReady if one cannot be quantized."""
    chosen = []
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix=path, recurse=False):
            if not is_quantized(name, parameter.shape):
                continue
            if type(module) is not nn.Linear and not _are_experts(module, name):
                raise NotReady(
                    f"VQA_QUANT={settings.quant}: {settings.model} (VQA_MODEL) keeps {name} in a "
                    f"{type(module).__name__}, which cannot be quantized: run it without VQA_QUANT, or spread it over "
                    "several cards (VQA_CARDS=0+1)"
                )
            if settings.quant == "int4" and parameter.shape[-1] % INT4_BLOCK:
                # bitsandbytes computes these incorrectly on a CPU
                raise NotReady(
                    f"VQA_QUANT=int4: {name} of {settings.model} (VQA_MODEL) has rows of {parameter.shape[-1]}, "
                    f"and int4 needs multiples of {INT4_BLOCK}"
                )
            chosen.append(name)
    return chosen


def _are_experts(module: nn.Module, name: str) -> bool:
    """Whether experts have Qwen3-VL-MoE's layout: gate and up in one tensor, output features first, no biases."""
    layout = [getattr(module, known, None) for known in ("has_gate", "has_bias", "is_transposed")]
    return name.endswith(PARTS) and layout == [True, False, False]


def _torchao(settings: EngineSettings, chosen: list[str]) -> TorchAoConfig:
    from torchao.quantization import Float8WeightOnlyConfig, FqnToConfig, Int8WeightOnlyConfig

    kind = Int8WeightOnlyConfig if settings.quant == "int8" else Float8WeightOnlyConfig
    # inductor settings are for compiled models, and global to the process
    how: Any = kind(set_inductor_config=False)
    return TorchAoConfig(FqnToConfig(OrderedDict.fromkeys(chosen, how)))


def _nf4(model: nn.Module, chosen: list[str], dtype: torch.dtype) -> BitsAndBytesConfig:
    from workers.engine.model.nf4 import with_experts

    matrices = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[name for name in matrices if f"{name}.weight" not in chosen],
    )
    return with_experts(config, [name for name in chosen if name.endswith(PARTS)])
