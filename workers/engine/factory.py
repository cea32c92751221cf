"""Which engine a model gets, by its config.json: no torch, so that slots can be planned for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vqa.errors import NotReady
from workers.engine.base import Engine
from workers.engine.model.footprint import read_config
from workers.engine.settings import EngineSettings


def make_engine(settings: EngineSettings, slots: int) -> Engine:
    """The engine that `settings` names (`choice.chosen` names one for `auto`), not started, for a card with `slots`."""
    match settings.engine:
        case "continuous":
            from workers.engine.continuous.engine import ContinuousEngine

            return ContinuousEngine(settings, slots)
        case "echo":
            from workers.engine.echo.engine import EchoEngine

            return EchoEngine(settings, slots)
        case "pipeline":
            from workers.engine.pipeline.engine import PipelineEngine

            return PipelineEngine(settings, slots)
        case "auto":
            raise ValueError("auto names no engine")


#: whose modules the continuous engine's forward pass is equal to
SUPPORTED = frozenset({"Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration"})

#: tokens of a slot in the continuous engine, or as many as the model was made for, unless VQA_SLOT_TOKENS says so:
#: there a prompt takes no more than it needs
CONTINUOUS_SLOT_TOKENS = 16_384

#: of the language model and of the vision tower
_ACTS = ("silu", "gelu_pytorch_tanh")


#: of cards: the flash kernel of torch needs it, and experts are multiplied in groups without waiting on these alone
_LEAST_CARD, _EXPERTS_CARDS = (8, 0), frozenset({9, 10})


def choose_engine(
    settings: EngineSettings, cards: int, capability: tuple[int, int] | None = None
) -> tuple[EngineSettings, str]:
    """The settings with an engine in place of `auto`, and why this one.

    For a worker of so many cards (0 is the CPU), the weakest of that compute capability. Raises NotReady where
    VQA_ENGINE=continuous cannot be.
    """
    if settings.engine not in {"auto", "continuous"}:
        return settings, "VQA_ENGINE says so"
    config = read_config(settings)
    against = _against_model(settings, config) or _against_cards(settings, config, cards, capability)
    if against and settings.engine == "continuous":
        raise NotReady(f"VQA_ENGINE=continuous: {against}; VQA_ENGINE=pipeline runs it, or auto, which chooses")
    if against:
        return settings.model_copy(update={"engine": "pipeline"}), against
    update = {"engine": "continuous", "slot_tokens": _slot_tokens(settings, config)}
    return settings.model_copy(update=update), "the model's architecture is supported"


def _slot_tokens(settings: EngineSettings, config: Mapping[str, Any]) -> int:
    positions = (config.get("text_config") or {}).get("max_position_embeddings") or CONTINUOUS_SLOT_TOKENS
    if "slot_tokens" not in settings.model_fields_set:
        return min(CONTINUOUS_SLOT_TOKENS, int(positions))
    if settings.slot_tokens > positions:
        raise NotReady(
            f"VQA_SLOT_TOKENS={settings.slot_tokens}: {settings.model} (VQA_MODEL) was made for {positions} tokens"
        )
    return settings.slot_tokens


def _against_model(settings: EngineSettings, config: Mapping[str, Any]) -> str:
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
    return ""


def _against_cards(
    settings: EngineSettings, config: Mapping[str, Any], cards: int, capability: tuple[int, int] | None
) -> str:
    """What it cannot do on these cards; empty where it can."""
    experts = "Moe" in config["architectures"][0]
    if cards > 1:
        return "the model is spread over several cards"
    if settings.replicas > 1:
        return f"VQA_REPLICAS={settings.replicas}, and the continuous engine needs one model only"
    if capability is not None and capability < _LEAST_CARD:
        return f"the card is of compute capability {capability[0]}.{capability[1]}, and 8.0 is needed"
    if capability is not None and experts and capability[0] not in _EXPERTS_CARDS:
        return (
            f"the model has experts and the card is of compute capability {capability[0]}.{capability[1]}, not 9 or 10"
        )
    if cards and experts and "float16" in {settings.dtype, settings.dtype == "auto" and config.get("dtype")}:
        return "the model has experts and is computed in float16, and they need bfloat16"
    return ""


def _acts(config: Mapping[str, Any]) -> tuple[str, str]:
    parts = (config.get("text_config") or {}, config.get("vision_config") or {})
    return parts[0].get("hidden_act") or _ACTS[0], parts[1].get("hidden_act") or _ACTS[1]
