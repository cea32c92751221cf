"""Chooses the engine for a model from its config.json, and makes it. Needs no torch, so slots can be planned first."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from vqa.errors import NotReady
from workers.engine.base import Engine
from workers.engine.model.footprint import read_config
from workers.engine.model.generation_config import processed_fields
from workers.engine.model.quant import is_released_float8, released_quantization
from workers.engine.settings import EngineSettings

#: `make_engine`, as the process of an engine is told; see `workers.engine.process`
FACTORY = f"{__name__}:make_engine"

#: architectures that the continuous engine implements
SUPPORTED = frozenset({"Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration"})

#: default of VQA_SLOT_TOKENS in the continuous engine, where a prompt takes only the memory that it needs; less if the
#: model has fewer positions
CONTINUOUS_SLOT_TOKENS = 16_384

#: activation functions of the language model and of the vision tower
_ACTS = ("silu", "gelu_pytorch_tanh")

#: How often a CPU thread of torch looks for the others of its operation before it sleeps: as often as libgomp lets it
#: where there are more threads than cores. The default, 300,000, keeps the others from their core whenever anything
#: else runs on the machine (docs/engine-log.md).
_SPINS = "1000"

#: compute capabilities: the least that torch's flash kernel needs, and the major versions on which the grouped products
#: of experts do not wait for the host
_MIN_CAPABILITY, _EXPERTS_MAJOR = (8, 0), frozenset({9, 10})

#: Compute capability from which on tensor cores multiply float8, and the major versions for its experts, whose kernel
#: needs no grouped products of torch's, but more shared memory than 12.0 has (120 of 99 KiB).
_FLOAT8_CAPABILITY, _FLOAT8_EXPERTS_MAJOR = (8, 9), frozenset({8, 9, 10})


def make_engine(settings: EngineSettings, slots: int) -> Engine:
    """Make the engine that `settings` names, not started; `choose_engine` must have replaced `auto`."""
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        # read once, when an engine's module imports torch
        os.environ["GOMP_SPINCOUNT"] = _SPINS
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
        case "remote":
            from workers.engine.remote.engine import RemoteEngine

            return RemoteEngine(settings, slots)
        case "auto":
            raise ValueError("choose_engine must replace auto first")


def choose_engine(
    settings: EngineSettings, cards: int, capability: tuple[int, int] | None = None
) -> tuple[EngineSettings, str]:
    """Replace `auto` by an engine in the settings; return them and the reason.

    `cards` is the worker's number of cards (0 for the CPU), `capability` their lowest compute capability. Raises
    NotReady if VQA_ENGINE=continuous is not possible.
    """
    if settings.engine not in {"auto", "continuous"}:
        return settings, "VQA_ENGINE says so"
    config = read_config(settings)
    objection = _model_objection(settings, config) or _card_objection(settings, config, cards, capability)
    if objection and settings.engine == "continuous":
        raise NotReady(f"VQA_ENGINE=continuous: {objection}; VQA_ENGINE=pipeline runs it, or auto, which chooses")
    if objection:
        return settings.model_copy(update={"engine": "pipeline"}), objection
    update = {"engine": "continuous", "slot_tokens": _slot_tokens(settings, config)}
    return settings.model_copy(update=update), "the model's architecture is supported"


def _slot_tokens(settings: EngineSettings, config: Mapping[str, Any]) -> int:
    positions = (config.get("text_config") or {}).get("max_position_embeddings") or CONTINUOUS_SLOT_TOKENS
    if "slot_tokens" not in settings.model_fields_set:
        return min(CONTINUOUS_SLOT_TOKENS, int(positions))
    if settings.slot_tokens > positions:
        raise NotReady(
            f"VQA_SLOT_TOKENS={settings.slot_tokens}: {settings.model} (VQA_MODEL) supports at most {positions} tokens"
        )
    return settings.slot_tokens


def _model_objection(settings: EngineSettings, config: Mapping[str, Any]) -> str:
    """Say why the continuous engine cannot run this model; empty if it can."""
    architecture = (config.get("architectures") or ["unknown"])[0]
    text = config.get("text_config") or {}
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if architecture not in SUPPORTED:
        return f"the model is a {architecture}, and the continuous engine supports {', '.join(sorted(SUPPORTED))}"
    if objection := _quantization_objection(settings, config):
        return objection
    if kind not in {"default", "mrope"} or text.get("attention_bias") or _acts(config) != _ACTS:
        return f"the model is a {architecture} with an unsupported rope_type, attention_bias or hidden_act"
    if processed := processed_fields(settings, config):
        return f"the model's generation_config.json has {', '.join(processed)}, which only `generate` heeds"
    return ""


def _quantization_objection(settings: EngineSettings, config: Mapping[str, Any]) -> str:
    """Say why the continuous engine cannot run weights quantized like this; empty if it can, or if they are not."""
    released = released_quantization(config)
    if settings.quant in {"int8", "int4"} or (released and settings.quant != "none"):
        return f"the model's weights are quantized (VQA_QUANT={settings.quant})"
    if released and not is_released_float8(config):
        return (
            f"the model's weights are quantized ({released.get('quant_method', 'unknown')}), and the continuous engine "
            "reads fp8 in blocks of 128 x 128 with dynamic activations"
        )
    return ""


def _card_objection(
    settings: EngineSettings, config: Mapping[str, Any], cards: int, capability: tuple[int, int] | None
) -> str:
    """Say why the continuous engine cannot run on these cards; empty if it can."""
    experts = "Moe" in config["architectures"][0]
    float8 = settings.quant == "fp8" or is_released_float8(config)
    if cards > 1:
        return "the model is spread over several cards"
    if settings.replicas > 1:
        return f"VQA_REPLICAS={settings.replicas}, and the continuous engine runs one copy of the model"
    if capability is not None and capability < _MIN_CAPABILITY:
        return f"the card has compute capability {capability[0]}.{capability[1]}, and 8.0 is needed"
    if capability is not None and float8 and capability < _FLOAT8_CAPABILITY:
        return f"the weights are in fp8, and the card has compute capability {capability[0]}.{capability[1]}, not 8.9"
    majors = _FLOAT8_EXPERTS_MAJOR if float8 else _EXPERTS_MAJOR
    if capability is not None and experts and capability[0] not in majors:
        return f"the model has experts and the card has compute capability {capability[0]}.{capability[1]}, not 9 or 10"
    if cards and experts and "float16" in {settings.dtype, settings.dtype == "auto" and config.get("dtype")}:
        return "the model has experts, which need bfloat16, and is computed in float16"
    return ""


def _acts(config: Mapping[str, Any]) -> tuple[str, str]:
    parts = (config.get("text_config") or {}, config.get("vision_config") or {})
    return parts[0].get("hidden_act") or _ACTS[0], parts[1].get("hidden_act") or _ACTS[1]
