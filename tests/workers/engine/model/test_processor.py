from __future__ import annotations

import copy
import importlib
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.workers.engine.conftest import image
from tests.workers.engine.model.test_loading import build_llava
from tests.workers.engine.pipeline.families.family import build
from tests.workers.engine.pipeline.families.table import FAMILIES
from workers.engine.model.loading import load
from workers.engine.model.processor import without_videos
from workers.engine.settings import EngineSettings


def test_settings_of_the_missing_part_read_as_unset() -> None:
    # for its default number of frames, in chats without videos too
    processor: Any = without_videos(transformers.SmolVLMProcessor)

    assert processor.video_processor.fps is None
    assert processor.get_attributes() == ["image_processor", "tokenizer"]


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


def test_pixtrals_inputs_are_those_of_transformers_own_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow = importlib.import_module("transformers.models.pixtral.image_processing_pil_pixtral")
    # it has the function that transformers' class takes from the module for torchvision
    monkeypatch.setitem(sys.modules, "transformers.models.pixtral.image_processing_pixtral", pillow)
    theirs = importlib.import_module("transformers.models.pixtral.processing_pixtral").PixtralProcessor
    ours = load(EngineSettings(model=str(build(FAMILIES["Mistral 3"], tmp_path)))).processor
    own = theirs(copy.deepcopy(ours.image_processor), ours.tokenizer, patch_size=ours.patch_size, spatial_merge_size=2)
    images = [image(number).pil for number in range(3)]

    made, expected = (each(images, "what is [IMG], [IMG] or [IMG]?", return_tensors="pt") for each in (ours, own))

    assert {*made} == {*expected} == {"input_ids", "attention_mask", "pixel_values", "image_sizes"}
    assert all(torch.equal(made[name], expected[name]) for name in expected)
    assert ours.image_token_ids == own.image_token_ids
    assert [*ours.model_input_names] == [*dict.fromkeys(own.model_input_names)]
