"""Extends transformers' bitsandbytes NF4 to experts, which are one tensor per layer: it handles linear layers only.

Registers a quantizer with transformers. Import this module only if bitsandbytes is installed.
"""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.nn import Params4bit
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizers_utils import get_module_from_name

from workers.engine.model.quant import INT4_BLOCK

_METHOD = "vqa_bitsandbytes_4bit"


def with_experts(config: BitsAndBytesConfig, experts: list[str]) -> BitsAndBytesConfig:
    """Make the configuration quantize these parameters too."""
    for name, value in {"quant_method": _METHOD, "experts": experts}.items():
        setattr(config, name, value)
    return config


@register_quantizer(_METHOD)
class Nf4ExpertsQuantizer(Bnb4BitHfQuantizer):
    """Quantizes the parameters in `quantization_config.experts` like the weights of linear layers."""

    def _process_model_before_weight_loading(self, model: Any, *args: Any, **kwargs: Any) -> None:
        super()._process_model_before_weight_loading(model, *args, **kwargs)
        config: Any = self.quantization_config
        for path in config.experts:
            module, name = get_module_from_name(model, path)
            # the loader reads these: do not transpose first, and how to quantize
            module.source_cls = nn.Linear
            empty = torch.empty_like(getattr(module, name), device="meta")
            how: dict[str, Any] = {"blocksize": INT4_BLOCK, "compress_statistics": False, "quant_type": "nf4"}
            setattr(module, name, Params4bit(empty, requires_grad=False, **how))

    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        config: Any = self.quantization_config
        return param_name in config.experts or super().param_needs_quantization(model, param_name, **kwargs)
