"""Transformers' bitsandbytes integration, with experts: it knows linear layers alone, experts are one tensor a layer.

Registered where transformers lets integrations be registered; imported only where bitsandbytes is installed.
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
    """The configuration, which from now on has these parameters quantised, too."""
    for name, value in {"quant_method": _METHOD, "experts": experts}.items():
        setattr(config, name, value)
    return config


@register_quantizer(_METHOD)
class ExpertsToo(Bnb4BitHfQuantizer):
    """Quantises the parameters that its configuration names in `experts` as it does linear layers' weights."""

    def _process_model_before_weight_loading(self, model: Any, *args: Any, **kwargs: Any) -> None:
        super()._process_model_before_weight_loading(model, *args, **kwargs)
        config: Any = self.quantization_config
        for path in config.experts:
            module, name = get_module_from_name(model, path)
            # what the loader's operation reads: that it is not to be transposed first, and how to quantise
            module.source_cls = nn.Linear
            empty = torch.empty_like(getattr(module, name), device="meta")
            how: dict[str, Any] = {"blocksize": INT4_BLOCK, "compress_statistics": False, "quant_type": "nf4"}
            setattr(module, name, Params4bit(empty, requires_grad=False, **how))

    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        """Whether the loader is to quantise this parameter."""
        config: Any = self.quantization_config
        return param_name in config.experts or super().param_needs_quantization(model, param_name, **kwargs)
