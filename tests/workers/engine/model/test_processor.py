from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoTokenizer, GenerationConfig

from tests.workers.engine.conftest import IMAGES, TEXT, VISION, Starting, answers, ask
from tests.workers.engine.model.test_loading import build_llava
from vqa.errors import NotReady
from workers.engine.model.loading import load
from workers.engine.model.processor import without_videos
from workers.engine.settings import EngineSettings

_CONTROL = {"image_token": "image_pad", "video_token": "video_pad"}
_PATCHES_OF_14 = {"patch_size": 14, "size": {"shortest_edge": 56 * 56, "longest_edge": 280 * 280}}


def _qwen2(name: str, **vision: Any) -> tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]:
    text = {field: value for field, value in TEXT.items() if field != "head_dim"}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    ends = {"bos_token_id": None, "eos_token_id": None}
    return name, {**text, **ends, "rope_parameters": rope}, {"depth": 2, "num_heads": 2, **vision}, _PATCHES_OF_14


def _qwen3_5() -> tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]:
    linear = {f"linear_{part}_head_dim": 16 for part in ("key", "value")} | {"linear_num_key_heads": 2}
    layers = {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}
    rope = {**TEXT["rope_parameters"], "partial_rotary_factor": 1.0}
    vision = {field: value for field, value in VISION.items() if field != "deepstack_visual_indexes"}
    return "Qwen3_5", {**TEXT, **linear, **layers, "linear_num_value_heads": 4, "rope_parameters": rope}, vision, {}


def _build(folder: Path, tokens: Path, name: str, text: dict[str, Any], vision: dict[str, Any], images: Any) -> Path:
    """Write a random model of another Qwen architecture, with the dense model's tokens and chat template."""
    tokenizer: Any = AutoTokenizer.from_pretrained(tokens)
    ids = {token: tokenizer.convert_tokens_to_ids(f"<|{text}|>") for token, text in _CONTROL.items()}
    ids |= {token: tokenizer.convert_tokens_to_ids(f"<|{token}|>") for token in ("vision_start", "vision_end")}
    config = getattr(transformers, f"{name}Config")(
        text_config={**text, "vocab_size": len(tokenizer), "pad_token_id": 0},
        vision_config=vision,
        tie_word_embeddings=False,
        **{f"{token.removesuffix('_token')}_token_id": id for token, id in ids.items()},
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.copy(tokens / "chat_template.jinja", folder)
    processor = {"processor_class": "Qwen3VLProcessor" if name == "Qwen3_5" else f"{name}Processor"}
    (folder / "preprocessor_config.json").write_text(json.dumps({**IMAGES, **images, **processor}))
    return folder


@pytest.mark.parametrize(
    "shape",
    [
        lambda: _qwen2("Qwen2VL", embed_dim=32, hidden_size=64, mlp_ratio=2),
        lambda: _qwen2("Qwen2_5_VL", hidden_size=32, intermediate_size=64, out_hidden_size=64, window_size=56),
        _qwen3_5,
    ],
    ids=["Qwen2-VL", "Qwen2.5-VL", "Qwen3.5"],
)
def test_models_that_take_videos_too_answer_without_torchvision(
    shape: Callable[[], Any], starting: Starting, dense_model: Path, tmp_path: Path
) -> None:
    engine = starting(model=str(_build(tmp_path, dense_model, *shape())))
    prompts = [ask(number) for number in range(3)]

    alone = [answers(engine, [prompt])[0] for prompt in prompts]

    assert answers(engine, prompts) == alone
    assert len({completion.text for completion in alone}) > 1
    assert "torchvision" not in sys.modules


def test_settings_of_the_missing_part_read_as_unset() -> None:
    # for its default number of frames, in chats without videos too
    processor: Any = without_videos(transformers.SmolVLMProcessor)

    assert processor.video_processor.fps is None
    assert processor.get_attributes() == ["image_processor", "tokenizer"]


def test_a_processor_that_cannot_do_without_torchvision_says_so(dense_model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(dense_model, tmp_path / "model")
    images = json.loads((copy / "preprocessor_config.json").read_text())
    images |= {"image_processor_type": "Llama4ImageProcessorFast"}
    (copy / "preprocessor_config.json").write_text(json.dumps(images))

    with pytest.raises(NotReady, match="torchvision"):
        load(EngineSettings(model=str(copy)))


def test_the_limits_of_image_tokens_are_told_beside_the_models_own(
    dense_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "workers.engine.model.image_sizes")

    for usual, high in ((16, 32), (16, 4096), (1024, 4096)):
        load(EngineSettings(model=str(dense_model), max_image_tokens=usual, high_image_tokens=high))

    told = (
        "images are seen at up to {} tokens (VQA_MAX_IMAGE_TOKENS), with detail low {}, high {} "
        "(VQA_HIGH_IMAGE_TOKENS); the model's own limits are 4 to 64 tokens of 32 x 32 pixels, its filter is bicubic"
    )
    assert [record.message for record in caplog.records] == [
        told.format(16, 16, 32),
        told.format(16, 16, 64),
        told.format(64, 64, 64),
    ]


@pytest.mark.parametrize(
    ("settings", "level", "enough"),
    [
        ({"slot_tokens": 512}, "WARNING", "an image of 64 (detail auto)"),
        ({"slot_tokens": 540, "max_image_tokens": 16}, "INFO", "(detail high)"),
    ],
    ids=["auto", "high"],
)
def test_a_slot_that_is_too_small_for_one_image_is_told_with_the_number_to_set(
    dense_model: Path, caplog: pytest.LogCaptureFixture, settings: dict[str, int], level: str, enough: str
) -> None:
    caplog.set_level(logging.INFO, "workers.engine.model.image_sizes")

    load(EngineSettings(model=str(dense_model), **settings))

    said = caplog.records[-1]
    assert said.levelname == level
    assert enough in said.message
    assert "VQA_SLOT_TOKENS=576 is enough" in said.message


def test_a_model_that_cuts_its_images_says_that_detail_has_no_effect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "workers.engine.model.image_sizes")

    load(EngineSettings(model=str(build_llava(tmp_path))))

    assert "`detail` has no effect" in caplog.text
