"""Which engine a model gets, by its config.json: no torch, so that slots can be planned for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vqa.errors import NotReady
from workers.engine.settings import EngineSettings
from workers.engine.shape import read_config

#: whose modules the continuous engine's forward pass is equal to
SUPPORTED = frozenset({"Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration"})

#: tokens of a slot in the continuous engine unless VQA_SLOT_TOKENS says so: there a prompt takes no more than it needs
CONTINUOUS_SLOT_TOKENS = 16_384


#: of the language model and of the vision tower
_ACTS = ("silu", "gelu_pytorch_tanh")


def chosen(settings: EngineSettings, cards: int) -> tuple[EngineSettings, str]:
    """The settings with an engine in place of `auto`, and why this one; for a worker of so many cards (0 is the CPU).

    Raises NotReady where VQA_ENGINE=continuous cannot be.
    """
    if settings.engine not in {"auto", "continuous"}:
        return settings, "VQA_ENGINE says so"
    against = _against(settings, read_config(settings), cards)
    if against and settings.engine == "continuous":
        raise NotReady(f"VQA_ENGINE=continuous: {against}; VQA_ENGINE=pipeline runs it, or auto, which chooses")
    if against:
        return settings.model_copy(update={"engine": "pipeline"}), against
    update: dict[str, Any] = {"engine": "continuous"}
    if "slot_tokens" not in settings.model_fields_set:
        update["slot_tokens"] = CONTINUOUS_SLOT_TOKENS
    return settings.model_copy(update=update), "the model's architecture is supported"


def _against(settings: EngineSettings, config: Mapping[str, Any], cards: int) -> str:
    """What the continuous engine cannot do with this model; empty where it can."""
    architecture = (config.get("architectures") or ["unknown"])[0]
    text = config.get("text_config") or {}
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if architecture not in SUPPORTED:
        return f"the model is a {architecture}, and the continuous engine knows {', '.join(sorted(SUPPORTED))}"
    if settings.quant != "none" or config.get("quantization_config") or text.get("quantization_config"):
        return "the model's weights are quantised"
    if kind not in {"default", "mrope"} or text.get("attention_bias") or _acts(config) != _ACTS:
        return f"the model is a {architecture} of an unusual kind (rope_type, attention_bias or hidden_act)"
    if cards > 1:
        return "the model is spread over several cards"
    if settings.replicas > 1:
        return f"VQA_REPLICAS={settings.replicas}, and the continuous engine needs one model only"
    return ""


def _acts(config: Mapping[str, Any]) -> tuple[str, str]:
    parts = (config.get("text_config") or {}, config.get("vision_config") or {})
    return parts[0].get("hidden_act") or _ACTS[0], parts[1].get("hidden_act") or _ACTS[1]
