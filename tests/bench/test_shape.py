"""The random-weight model: the same path as a loaded one."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from bench.engine import shape30b
from bench.engine.shape30b import Scale
from bench.engine.work import WORDS, Size, Stock
from bench.stage import TINY
from workers.engine.base import Prompt, SamplingParams, Turn
from workers.engine.model.footprint import read_footprint
from workers.engine.model.loading import eos_ids
from workers.engine.pipeline.encoding import Encoder
from workers.engine.settings import EngineSettings
from workers.media.limits import ImageLimits
from workers.media.pool import DecoderPool
from workers.media.request import ImageRequest


@pytest.mark.parametrize("scale", ["tiny", "tiny-dense"])
def test_the_weights_are_drawn_and_the_end_of_a_text_is_never_the_likeliest(scale: Scale, tmp_path: Path) -> None:
    settings = EngineSettings(model=str(shape30b.write_folder(tmp_path, scale)))
    pipe = shape30b.load(settings)
    parameters = dict(pipe.model.named_parameters())
    for name, parameter in parameters.items():
        assert parameter.isfinite().all(), name
        if parameter.dim() > 1:
            assert 0.015 < parameter.std() < 0.025, name
    assert torch.equal(parameters["model.language_model.norm.weight"], torch.ones(64))
    (end,) = eos_ids(pipe)
    assert not parameters["lm_head.weight"][end].any()
    size = sum(parameter.numel() for parameter in parameters.values())
    assert read_footprint(settings, on_card=True).weights_bytes == 2 * size


def test_the_large_shape_has_the_published_size(tmp_path: Path) -> None:
    folder = shape30b.write_folder(tmp_path, "30b")
    shape = read_footprint(EngineSettings(model=str(folder)), on_card=True)
    # 31.07 billion parameters
    assert shape.weights_bytes == pytest.approx(2 * 31.07e9, rel=0.001)
    assert shape.kv_token_bytes == 96 * 1024


def test_w1_is_768_tokens_of_image_and_26_of_text(tmp_path: Path) -> None:
    settings = EngineSettings(model=str(shape30b.write_folder(tmp_path, "tiny")))
    (question,) = Stock.w1(1, Size()).take()
    assert 150_000 < len(question.image) < 250_000
    media = DecoderPool(1, ImageLimits(2**20, 2**20, settings.max_image_pixels))
    [(image,)] = media.decode([ImageRequest(question.image)])
    media.close()
    encoder = Encoder(shape30b.load(settings), settings.slot_tokens)
    encoded = encoder.encode(Prompt("w1", (Turn("user", (image, WORDS)),), SamplingParams(question.max_new_tokens)))
    assert encoded.prompt_tokens == 768 + 26
    assert question.max_new_tokens == 64


def test_as_many_tokens_as_the_model_has_and_texts_are_split_as_before(tmp_path: Path) -> None:
    folder = shape30b.write_folder(tmp_path, "30b")
    wide, bundled = (Tokenizer.from_file(str(path / "tokenizer.json")) for path in (folder, TINY))
    assert wide.get_vocab_size() == 151_936
    for text in (WORDS, "a whole thing of the other", "<|im_start|>user\n12 reds, 3 blues?<|im_end|>"):
        assert wide.encode(text).ids == bundled.encode(text).ids
