"""Models whose vision tower or image processor differs from Qwen's own get the answers of `generate` all the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.workers.engine.conftest import build_model, image, make_prompt
from tests.workers.engine.continuous.conftest import Bench, Sizes
from vqa.errors import NotReady
from workers.engine.base import Turn
from workers.engine.continuous.engine import ContinuousEngine
from workers.engine.model.image_sizes import read_fit
from workers.engine.model.loading import load
from workers.engine.settings import EngineSettings

PROMPTS = [
    make_prompt("one", (Turn("user", (image(1), "what is it?")),), 8),
    make_prompt("two", (Turn("user", (image(2), "and", image(3), "differ how?")),), 8),
    make_prompt("text", (Turn("user", ("hello",)),), 8),
]


def assert_answers_as_generate_does(model: Path) -> None:
    bench = Bench(load(EngineSettings(model=str(model))))

    for prefill_tokens in (20, 256):
        made = bench.answer(Sizes(prefill_tokens=prefill_tokens), {0: PROMPTS})

        assert {id: completion.text.split() for id, completion in made.items()} == {
            prompt.id: [str(token) for token in bench.expected(prompt) if token not in bench.ends] for prompt in PROMPTS
        }


@pytest.mark.parametrize(
    "indexes",
    [[0, 1], [1, 0], [1], [], [0, 0], [0, 1, 7]],
    ids=["as many as layers", "out of order", "the last block", "none", "twice", "of no block"],
)
def test_deepstack_features_of_any_blocks_join_the_layers_that_generate_adds_them_to(
    indexes: list[int], tmp_path: Path
) -> None:
    assert_answers_as_generate_does(build_model(tmp_path, experts=False, deepstack_visual_indexes=indexes))


def processed(dense_model: Path, folder: Path, **fields: Any) -> Path:
    """The dense model with fields of its preprocessor_config.json changed."""
    model = shutil.copytree(dense_model, folder / "model")
    config = json.loads((model / "preprocessor_config.json").read_text())
    (model / "preprocessor_config.json").write_text(json.dumps(config | fields))
    return model


@pytest.mark.parametrize(
    "fields",
    [
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 0.01, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.9, 0.8, 0.7]},
        {"image_mean": 0.25, "image_std": 0.75},
        {"do_convert_rgb": False},
    ],
    ids=lambda fields: " ".join(fields),
)
def test_an_image_processor_is_heeded(fields: dict[str, Any], dense_model: Path, tmp_path: Path) -> None:
    assert_answers_as_generate_does(processed(dense_model, tmp_path, **fields))


def test_sizes_and_filter_of_the_image_processor_are_those_to_which_images_are_scaled(
    dense_model: Path, tmp_path: Path
) -> None:
    model = processed(dense_model, tmp_path, resample=2, min_pixels=128 * 128, max_pixels=192 * 192)

    fit = read_fit(load(EngineSettings(model=str(model))).image_processor)

    assert (fit.resample, fit.min_pixels, fit.max_pixels) == (2, 128 * 128, 192 * 192)


@pytest.mark.parametrize("filter", list(Image.Resampling), ids=lambda filter: filter.name.lower())
def test_images_are_scaled_by_the_filter_of_the_image_processor(
    filter: Image.Resampling, dense_model: Path, tmp_path: Path
) -> None:
    model = processed(dense_model, tmp_path, resample=filter.value)
    theirs = load(EngineSettings(model=str(model))).image_processor
    fit = read_fit(theirs)
    whole = Image.merge("RGB", [Image.effect_noise((300, 420), 60)] * 3)

    values = np.moveaxis(np.asarray(whole), -1, 0)
    scaled = theirs.resize(values, size=theirs.size, resample=theirs.resample, factor=fit.factor)

    ours = whole.resize(fit.size(*whole.size), Image.Resampling(fit.resample))
    assert np.array_equal(np.moveaxis(scaled, 0, -1), np.asarray(ours))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"do_resize": False}, "do_resize=false; the continuous engine needs true"),
        ({"patch_size": 14}, "patch_size=14; .* needs 16, as"),
        ({"merge_size": 1}, "merge_size=1; .* needs 2, as"),
        ({"temporal_patch_size": 1}, "temporal_patch_size=1; .* needs 2, as"),
        ({"image_processor_type": "CLIPImageProcessor"}, "CLIPImageProcessor.*; .* needs Qwen2VLImageProcessor"),
        ({"size": {"height": 64, "width": 64}}, "size=.*; .* needs one with shortest_edge and longest_edge"),
        ({"size": {"min_pixels": 4096, "max_pixels": 65536}}, "size=.*max_pixels.*; .* needs one with shortest_edge"),
        ({"resample": None}, "resample=None; .* needs a filter of Pillow's, 0 to"),
        ({"resample": 99}, "resample=99; .* needs a filter of Pillow's, 0 to"),
        ({"rescale_factor": None}, "rescale_factor=null; .* needs one for do_rescale=true"),
        ({"image_mean": None}, "image_mean=null; .* needs one for do_normalize=true"),
        ({"image_std": None}, "image_std=null; .* needs one for do_normalize=true"),
    ],
    ids=[
        *("do_resize", "patch_size", "merge_size", "temporal_patch_size", "image_processor_type", "sides"),
        *("size of pixels", "no filter", "unknown filter", "rescale_factor", "image_mean", "image_std"),
    ],
)
def test_what_cannot_be_heeded_is_refused_by_name_at_the_start(
    fields: dict[str, Any], words: str, dense_model: Path, tmp_path: Path
) -> None:
    engine = ContinuousEngine(EngineSettings(model=str(processed(dense_model, tmp_path, **fields))), slots=2)

    with pytest.raises(NotReady, match=words):
        engine.start(lambda error, ids: None)
