"""Images of thousands of tokens, beside small ones and in prefills that are smaller than they are."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from PIL import Image

from tests.workers.engine.conftest import IMAGES, ask, build_model, make_prompt
from tests.workers.engine.continuous.conftest import Bench, Sizes
from vqa.images.fit import Fit
from workers.engine.base import Turn
from workers.engine.continuous.model.image_features import ImageFeatures
from workers.engine.continuous.model.language import LanguageModel
from workers.engine.continuous.model_runner import ModelRunner
from workers.engine.continuous.scheduler import Batch
from workers.engine.continuous.trial_prompts import TrialPrompts
from workers.engine.image import RGBImage
from workers.engine.model.loading import load
from workers.engine.settings import EngineSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that may see images of 16,384 tokens, with a small tower, as a CPU takes seconds for them."""
    small = {"depth": 1, "num_heads": 1, "deepstack_visual_indexes": [0]}
    folder = build_model(tmp_path_factory.mktemp("large"), experts=False, **small)
    size = {"shortest_edge": 64 * 64, "longest_edge": 4096 * 4096}
    (folder / "preprocessor_config.json").write_text(json.dumps({**IMAGES, "size": size}))
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_large_image_gets_its_answer_in_chunks_and_beside_small_ones(folder: Path, dtype: Any) -> None:
    bench = Bench(load(EngineSettings(model=str(folder), dtype=dtype)))
    noise = Image.frombytes("RGB", (128, 128), Random(1).randbytes(128 * 128 * 3)).resize((1408, 1408))
    large = make_prompt("large", (Turn("user", (RGBImage.from_pil(noise), "what is it?")),), 6)
    whole = bench.answer(Sizes(blocks=256, prefill_tokens=4096), {0: [large]})["large"]
    assert whole.prompt_tokens > 44 * 44
    small = [ask(number, max_new_tokens=6) for number in range(2)]
    together = bench.answer(Sizes(blocks=256, prefill_tokens=500), {0: [small[0], large, small[1]]})
    assert together["large"] == whole
    assert together["job-1"] == bench.answer(Sizes(), {0: [small[1]]})["job-1"]


@pytest.mark.parametrize(("tokens", "most"), [(64, 4096), (500, 256), (1024, 64), (300, 100)])
@torch.inference_mode()
def test_the_trial_prefills_are_of_the_largest_images(dense_bench: Bench, tokens: int, most: int) -> None:
    fit = Fit(32, min_pixels=4096, max_pixels=most * 32 * 32)
    prompts = TrialPrompts(fit, 16, 2, 16)
    largest, usual = prompts.largest(tokens), prompts.whole(tokens)
    assert sum(chunk.num_tokens for chunk in largest) == tokens
    encoded = sum(image.tokens for chunk in largest for image in chunk.images)
    image = largest[0].images[0].tokens
    assert image == int(most**0.5) ** 2
    assert tokens + image - 2 * len(largest) <= encoded < tokens + 2 * image
    assert all(chunk.is_last for chunk in usual)
    assert sum(chunk.num_tokens for chunk in usual) <= max(tokens, image + 2)
    if most <= 256:
        language = LanguageModel(dense_bench.weights, dense_bench.weights.new_kv_cache(80, 16), dense_bench.ops)
        features = ImageFeatures(dense_bench.vision.encode_images, 0)
        runner = ModelRunner(language, features, dense_bench.ops, max(len(largest), len(usual)), 80)
        for chunks in (largest, usual):
            logits = runner.forward(Batch((), tuple(chunks)))
            assert len(logits.greedy) == sum(chunk.is_last for chunk in chunks)
