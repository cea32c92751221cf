from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from tests.workers.engine.conftest import SOON, Starting, answers, ask, make_prompt
from vqa.errors import NotReady
from workers.engine.base import Turn
from workers.engine.image import RGBImage
from workers.engine.model.loading import load
from workers.engine.settings import EngineSettings


def loaded(model: Path, **settings: Any) -> Any:
    return load(EngineSettings(model=str(model), **settings))


@pytest.fixture
def copy(dense_model: Path, tmp_path: Path) -> Path:
    """The dense model in a folder that the test may change."""
    return shutil.copytree(dense_model, tmp_path / "model")


def test_it_is_a_pipeline_without_torchvision(dense_model: Path) -> None:
    pipe = loaded(dense_model)

    assert pipe.task == "image-text-to-text"
    assert pipe.tokenizer.padding_side == "left"
    assert pipe.tokenizer is pipe.processor.tokenizer
    assert not pipe.model.training
    assert "torchvision" not in sys.modules


def test_images_are_capped_and_the_checkpoints_own_cap_is_never_raised(dense_model: Path) -> None:
    capped = loaded(dense_model, max_image_tokens=4, high_image_tokens=16)
    as_it_is = loaded(dense_model, max_image_tokens=1024)

    assert capped.image_processor.size["longest_edge"] == 16 * 32 * 32
    assert as_it_is.image_processor.size["longest_edge"] == 256 * 256
    assert as_it_is.image_processor.size["shortest_edge"] == 64 * 64


def test_a_capped_image_becomes_no_more_tokens(starting: Starting) -> None:
    prompt = make_prompt("a", (Turn("user", (RGBImage.from_pil(Image.new("RGB", (900, 700))), "")),), 1)

    capped = [starting(max_image_tokens=4, high_image_tokens=cap) for cap in (4, 16)]
    tokens = [engine.submit(prompt).result(SOON).prompt_tokens for engine in capped]

    assert 8 <= tokens[1] - tokens[0] <= 12


def test_a_processor_config_in_one_file_is_read_too(copy: Path, starting: Starting) -> None:
    before = answers(starting(), [ask(0)])
    images = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").unlink()
    kind = images.pop("processor_class")
    (copy / "processor_config.json").write_text(json.dumps({"image_processor": images, "processor_class": kind}))

    assert answers(starting(model=str(copy)), [ask(0)]) == before


@pytest.mark.parametrize(
    ("dtype", "expected"), [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="auto is the checkpoint's own on a card")
def test_on_the_cpu_it_computes_in_float32_unless_told(copy: Path, dtype: Any, expected: torch.dtype) -> None:
    # as a checkpoint on the hub is: what is loaded by us has its patch embedding replaced, and is not for saving
    AutoModelForImageTextToText.from_pretrained(copy, dtype=torch.bfloat16).save_pretrained(copy)

    pipe = loaded(copy, dtype=dtype)

    assert pipe.model.dtype == expected


def build_llava(folder: Path) -> Path:
    """Another architecture: images of one size, other placeholders, other tensors."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        GenerationConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    special = ("<pad>", "<s>", "</s>", "<image>")
    tokens = {token: id for id, token in enumerate((*special, *sorted(pre_tokenizers.ByteLevel.alphabet())))}
    made = Tokenizer(models.BPE(vocab=tokens, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    names = dict(zip(("pad_token", "bos_token", "eos_token"), special, strict=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, extra_special_tokens=["<image>"], **names)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    template = (
        "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} assistant:"
    )
    LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)
    small = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=32, patch_size=8, **small),
        text_config=LlamaConfig(
            vocab_size=len(tokens), initializer_range=0.25, pad_token_id=0, bos_token_id=1, eos_token_id=2, **small
        ),
        image_token_id=tokens["<image>"],
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder)
    return folder


def test_a_model_of_another_architecture_answers_alike_alone_and_together(starting: Starting, tmp_path: Path) -> None:
    engine = starting(model=str(build_llava(tmp_path)))
    prompts = [ask(number, question="what is <image>?") for number in range(4)]

    alone = [engine.submit(prompt).result(SOON) for prompt in prompts]

    assert answers(engine, prompts) == alone
    assert len({completion.text for completion in alone}) == 4
    assert {completion.image_sizes for completion in alone} == {((32, 32),)}


def test_the_checkpoints_own_sampling_does_not_make_a_greedy_answer_random(copy: Path, starting: Starting) -> None:
    # as Qwen3-VL is released
    sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.0}
    ends = json.loads((copy / "generation_config.json").read_text())
    (copy / "generation_config.json").write_text(json.dumps(ends | sampling))

    before = answers(starting(), [ask(0)])

    assert answers(starting(model=str(copy)), [ask(0)]) == before


def test_damaged_weights_are_not_ready(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"damaged")

    with pytest.raises(NotReady, match="VQA_MODEL"):
        loaded(copy)


def test_a_folder_without_a_tokenizer_is_not_ready(copy: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (copy / name).unlink()

    with pytest.raises(NotReady, match="VQA_MODEL"):
        loaded(copy)


def test_the_models_own_code_is_not_run_unless_asked_for(copy: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    (copy / "own.py").write_text(f"open({str(trace)!r}, 'w')\nclass Own: pass\n")
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (copy / "config.json").write_text(json.dumps(config))

    with pytest.raises(NotReady, match="VQA_TRUST_REMOTE_CODE"):
        loaded(copy)
    assert not trace.exists()
