from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.worker_process import TINY
from vqa.errors import NotReady
from workers.engine.factory import CONTINUOUS_SLOT_TOKENS, choose_engine
from workers.engine.settings import EngineSettings

SUPPORTED: dict[str, Any] = {
    "architectures": ["Qwen3VLMoeForConditionalGeneration"],
    "text_config": {"hidden_act": "silu", "attention_bias": False, "rope_parameters": {"rope_type": "default"}},
    "vision_config": {"hidden_act": "gelu_pytorch_tanh"},
}

#: of the released -FP8 checkpoints
FP8: dict[str, Any] = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "weight_block_size": [128, 128],
    "activation_scheme": "dynamic",
    "ignored_layers": ["lm_head"],
}


def settings_of(folder: Path, config: dict[str, Any], **how: Any) -> EngineSettings:
    (folder / "config.json").write_text(json.dumps(config))
    return EngineSettings(model=str(folder), **how)


@pytest.mark.parametrize("engine", ["auto", "continuous"])
@pytest.mark.parametrize("cards", [0, 1])
def test_the_bundled_model_gets_the_continuous_engine(engine: str, cards: int) -> None:
    settings, why = choose_engine(EngineSettings(model=str(TINY), engine=engine), cards)

    assert settings.engine == "continuous"
    assert why == "the model's architecture is supported"


def test_so_do_the_tiny_random_models(dense_model: Path, expert_model: Path) -> None:
    for model in (dense_model, expert_model):
        assert choose_engine(EngineSettings(model=str(model)), 1)[0].engine == "continuous"


@pytest.mark.parametrize("engine", ["pipeline", "echo"])
def test_an_engine_that_is_named_is_taken_and_no_model_looked_at(engine: str, tmp_path: Path) -> None:
    settings = EngineSettings(model=str(tmp_path / "nothing"), engine=engine)

    assert choose_engine(settings, 1) == (settings, "VQA_ENGINE says so")


@pytest.mark.parametrize(
    ("change", "how", "cards", "why"),
    [
        ({"architectures": ["LlavaForConditionalGeneration"]}, {}, 1, "is a LlavaForConditionalGeneration"),
        ({"architectures": None}, {}, 1, "is a unknown"),
        ({"text_config": {"rope_parameters": {"rope_type": "yarn"}}}, {}, 1, "rope_type"),
        ({"text_config": {"rope_scaling": {"type": "yarn"}}}, {}, 1, "rope_type"),
        ({"text_config": {"attention_bias": True}}, {}, 1, "attention_bias"),
        ({"text_config": {"hidden_act": "gelu"}}, {}, 1, "hidden_act"),
        ({"vision_config": {"hidden_act": "quick_gelu"}}, {}, 1, "hidden_act"),
        ({"quantization_config": {"quant_method": "fp8"}}, {}, 1, "quantized"),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, {}, 1, "quantized"),
        ({"quantization_config": {**FP8, "weight_block_size": [64, 128]}}, {}, 1, "blocks of 128 x 128"),
        ({"quantization_config": {**FP8, "activation_scheme": "static"}}, {}, 1, "dynamic activations"),
        ({"quantization_config": {**FP8, "scale_fmt": "ue8m0"}}, {}, 1, "(fp8)"),
        ({"quantization_config": {"quant_method": "awq"}}, {}, 1, "(awq)"),
        ({"quantization_config": FP8}, {"quant": "fp8"}, 1, "VQA_QUANT=fp8"),
        ({}, {"quant": "int4"}, 1, "VQA_QUANT=int4"),
        ({}, {"quant": "int8"}, 1, "VQA_QUANT=int8"),
        ({}, {}, 2, "several cards"),
        ({}, {"replicas": 3}, 1, "VQA_REPLICAS=3"),
    ],
)
def test_others_get_the_pipeline_engine_and_are_told_why(
    tmp_path: Path, change: dict[str, Any], how: dict[str, Any], cards: int, why: str
) -> None:
    config = SUPPORTED | change

    settings, reason = choose_engine(settings_of(tmp_path, config, **how), cards)

    assert settings.engine == "pipeline"
    assert why in reason
    # and nothing else is changed
    assert settings == settings_of(tmp_path, config, **how).model_copy(update={"engine": "pipeline"})
    with pytest.raises(NotReady, match=r"VQA_ENGINE=continuous: .*VQA_ENGINE=pipeline runs it") as refused:
        choose_engine(settings_of(tmp_path, config, engine="continuous", **how), cards)
    assert reason in str(refused.value)


def dense(**change: Any) -> dict[str, Any]:
    return SUPPORTED | {"architectures": ["Qwen3VLForConditionalGeneration"]} | change


@pytest.mark.parametrize(
    ("config", "how", "capability", "engine", "why"),
    [
        (dense(), {}, (7, 5), "pipeline", "compute capability 7.5, and 8.0 is needed"),
        (dense(), {}, (8, 0), "continuous", ""),
        (dense(), {}, (12, 0), "continuous", ""),
        (dense(), {"dtype": "float16"}, (9, 0), "continuous", ""),
        (SUPPORTED, {}, (8, 9), "pipeline", "has experts and the card has compute capability 8.9"),
        (SUPPORTED, {}, (12, 0), "pipeline", "not 9 or 10"),
        (SUPPORTED, {}, (9, 0), "continuous", ""),
        (SUPPORTED, {}, (10, 0), "continuous", ""),
        (SUPPORTED, {"dtype": "float16"}, (9, 0), "pipeline", "float16"),
        (SUPPORTED | {"dtype": "float16"}, {}, (9, 0), "pipeline", "float16"),
        (SUPPORTED | {"dtype": "float16"}, {"dtype": "bfloat16"}, (9, 0), "continuous", ""),
        (SUPPORTED, {"quant": "fp8"}, (8, 9), "continuous", ""),
        (SUPPORTED, {"quant": "fp8"}, (10, 0), "continuous", ""),
        (SUPPORTED, {"quant": "fp8"}, (12, 0), "pipeline", "not 9 or 10"),
        (dense(), {"quant": "fp8"}, (12, 0), "continuous", ""),
        (SUPPORTED, {"quant": "fp8"}, (8, 6), "pipeline", "in fp8, and the card has compute capability 8.6, not 8.9"),
        (dense(), {"quant": "fp8"}, (8, 0), "pipeline", "not 8.9"),
        (SUPPORTED | {"quantization_config": FP8}, {}, (8, 9), "continuous", ""),
        (SUPPORTED | {"quantization_config": FP8}, {}, (8, 6), "pipeline", "not 8.9"),
        (dense(quantization_config=FP8), {}, (9, 0), "continuous", ""),
        (SUPPORTED, {"quant": "fp8", "dtype": "float16"}, (9, 0), "pipeline", "float16"),
    ],
)
def test_a_card_has_to_be_able_to_do_what_the_model_needs(
    tmp_path: Path, config: dict[str, Any], how: dict[str, Any], capability: tuple[int, int], engine: str, why: str
) -> None:
    settings, reason = choose_engine(settings_of(tmp_path, config, **how), 1, capability)

    assert settings.engine == engine
    assert why in reason


def test_a_slot_longer_than_the_model_was_made_for_is_refused() -> None:
    assert choose_engine(EngineSettings(model=str(TINY), slot_tokens=4096), 1)[0].slot_tokens == 4096

    with pytest.raises(NotReady, match=r"VQA_SLOT_TOKENS=4097: .*4096 tokens"):
        choose_engine(EngineSettings(model=str(TINY), slot_tokens=4097), 1)


def test_a_slot_is_long_where_it_costs_nothing_unless_somebody_says_how_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_engine(settings_of(tmp_path, SUPPORTED), 1)[0].slot_tokens == CONTINUOUS_SLOT_TOKENS
    assert choose_engine(settings_of(tmp_path, SUPPORTED, slot_tokens=4096), 1)[0].slot_tokens == 4096
    # what the bundled model was made for
    assert choose_engine(EngineSettings(model=str(TINY)), 1)[0].slot_tokens == 4096 < CONTINUOUS_SLOT_TOKENS
    monkeypatch.setenv("VQA_SLOT_TOKENS", "2048")
    assert choose_engine(settings_of(tmp_path, SUPPORTED), 1)[0].slot_tokens == 2048


def test_of_slots_that_share_their_memory_a_image_and_an_answer_are_planned_for(tmp_path: Path) -> None:
    planned = [
        choose_engine(settings_of(tmp_path, SUPPORTED, engine=engine), 1)[0].planned_tokens
        for engine in ("continuous", "pipeline")
    ]

    assert planned == [1024 + 512, 4096]


def test_a_model_that_is_not_there_is_not_ready(tmp_path: Path) -> None:
    with pytest.raises(NotReady):
        choose_engine(EngineSettings(model=str(tmp_path)), 1)
