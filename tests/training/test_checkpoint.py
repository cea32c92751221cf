"""The folder that ships is a checkpoint like the real one, and answers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, Qwen2VLImageProcessorPil, Qwen3VLForConditionalGeneration

from training.architecture import Shape, build_config, image_settings
from training.evaluate import Checkpoint, score
from training.export import export
from training.questions import held_out
from training.tokenizer import SPECIAL, train_tokenizer

FOLDER = Path(__file__).parents[2] / "models/tiny-vl"
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint(FOLDER)


def test_the_weights_are_two_shards_that_each_stay_under_16_mebibytes() -> None:
    shards = sorted(FOLDER.glob("*.safetensors"))
    assert len(shards) == 2
    assert all(shard.stat().st_size < 16 * MEBIBYTE for shard in shards)
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 32_000_000


def test_the_index_names_every_weight() -> None:
    index = json.loads((FOLDER / "model.safetensors.index.json").read_text())["weight_map"]
    held: dict[str, str] = {}
    for name in set(index.values()):
        with safe_open(FOLDER / name, "pt") as shard:
            held |= dict.fromkeys(shard.keys(), name)
    assert held == index


def test_the_config_is_of_the_architecture_that_the_real_checkpoint_has() -> None:
    config = AutoConfig.from_pretrained(FOLDER)
    assert config.model_type == "qwen3_vl"
    assert config.architectures == ["Qwen3VLForConditionalGeneration"]


def test_the_image_processor_reads_its_settings_from_the_folder() -> None:
    processor = Qwen2VLImageProcessorPil.from_pretrained(FOLDER)
    assert dict(processor.size) == image_settings()["size"]
    assert (processor.patch_size, processor.merge_size) == (16, 2)


def test_the_tokenizer_in_the_folder_is_the_one_that_training_makes() -> None:
    loaded, made = AutoTokenizer.from_pretrained(FOLDER), train_tokenizer()
    assert loaded.get_vocab() == made.get_vocab()
    assert loaded.chat_template == made.chat_template


def test_generation_stops_at_the_end_of_the_turn() -> None:
    loaded = AutoTokenizer.from_pretrained(FOLDER)
    generation = json.loads((FOLDER / "generation_config.json").read_text())
    assert generation["eos_token_id"] == loaded.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert generation["pad_token_id"] == loaded.convert_tokens_to_ids("<|endoftext|>")


@pytest.mark.parametrize(
    ("system", "question_first"),
    [(None, False), ("You are a helpful assistant.", False), (None, True), ("Be brief.", True)],
)
def test_held_out_questions_are_answered(checkpoint: Checkpoint, system: str | None, question_first: bool) -> None:
    hits, _ = score(checkpoint, held_out(50, seed=7), system=system, question_first=question_first)
    assert sum(sum(family) for family in hits.values()) >= 48


def test_an_exported_model_loads_to_the_same_weights(tmp_path: Path) -> None:
    tokenizer = train_tokenizer()
    small = Shape(width=64, text_layers=2, head_width=16, vision_width=48, vision_layers=2, deepstack=(0,))
    model = Qwen3VLForConditionalGeneration(build_config(tokenizer, small))
    export(model, tokenizer, tmp_path)
    loaded = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(value.bfloat16(), loaded[name]) for name, value in model.state_dict().items())
    assert all(len(AutoTokenizer.from_pretrained(tmp_path).encode(token)) == 1 for token in SPECIAL)
