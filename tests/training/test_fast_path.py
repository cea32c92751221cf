"""The fast path is the same function as the unpatched forward pass."""

import random
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessorPil, Qwen3VLForConditionalGeneration

from training.architecture import Shape, build_config, image_settings
from training.data import Collator, Row, layout_for, rounded_size
from training.fast_path import FastPath, fix, patches
from training.objective import normalised
from training.palette import SIZES
from training.questions import training_questions, training_scene
from training.scenes import paint
from training.tokenizer import train_tokenizer

SMALL = Shape(width=64, text_layers=3, head_width=16, text_inner=96, vision_width=48, vision_layers=4, vision_inner=64)
TOKENIZER = train_tokenizer()


def drawn_row(seed: int, size: tuple[int, int], questions: int, system: str | None, first: bool) -> Row:
    rng = random.Random(seed)
    scene = training_scene(rng, size)
    asked = tuple((question, answer) for _, question, answer in training_questions(rng, scene, questions))
    return Row(paint(rng, scene), scene, asked, system, first)


def processed(image: Image.Image) -> dict[str, torch.Tensor]:
    return dict(Qwen2VLImageProcessorPil(**image_settings())(image, return_tensors="pt"))


@pytest.mark.parametrize("size", [(128, 128), (150, 200), (320, 240)])
def test_pixels_are_those_of_the_image_processor(size: tuple[int, int]) -> None:
    row = drawn_row(0, size, 1, None, False)
    pixels = Collator(TOKENIZER).batch([row], layout_for(rounded_size(*size), 1)).pixels
    ours = patches(normalised(pixels))[0].unflatten(1, (3, 256))
    theirs = processed(row.image)["pixel_values"].unflatten(1, (3, 2, 256))
    assert torch.allclose(ours, theirs[:, :, 0], atol=1e-5)
    assert torch.equal(theirs[:, :, 0], theirs[:, :, 1])


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_rounded_as_the_image_processor_rounds(size: tuple[int, int]) -> None:
    width, height = rounded_size(*size)
    assert processed(Image.new("RGB", size))["image_grid_thw"].tolist() == [[1, height // 16, width // 16]]


@pytest.mark.parametrize(
    ("size", "system", "first"),
    [
        ((128, 128), None, False),
        ((192, 256), "You are a helpful assistant.", False),
        ((300, 200), None, True),
        ((224, 160), "Be brief.", True),
    ],
)
def test_every_question_of_a_row_gets_the_logits_of_the_unpatched_model(
    size: tuple[int, int], system: str | None, first: bool
) -> None:
    torch.manual_seed(0)
    config: Any = build_config(TOKENIZER, SMALL)
    config.text_config.initializer_range = config.vision_config.initializer_range = 0.2
    model = Qwen3VLForConditionalGeneration(config).eval()
    rows = [drawn_row(seed, size, 1 if first else 3, system if seed else None, first) for seed in range(2)]
    layout = layout_for(rounded_size(*size), len(rows[0].asked))
    batch = Collator(TOKENIZER).batch(rows, layout)
    with torch.no_grad():
        path = FastPath(model)
        padding = batch.ids == TOKENIZER.pad_token_id
        hidden, _ = path(fix(layout, config, torch.device("cpu")), normalised(batch.pixels), batch.ids, padding)
        for number, row in enumerate(rows):
            for segment, (question, answer) in enumerate(row.asked):
                ours = model.lm_head(hidden[number, layout.start(segment) :])
                theirs, length = unpatched_logits(model, row, question, answer)
                assert torch.allclose(ours[:length], theirs[-length:], atol=2e-4)


def unpatched_logits(model: torch.nn.Module, row: Row, question: str, answer: str) -> tuple[torch.Tensor, int]:
    """Logits of the chat as users send it, and how many tokens follow the image."""
    parts = [{"type": "image"}, {"type": "text", "text": question}]
    chat = [{"role": "user", "content": parts[::-1] if row.first else parts}]
    if row.system:
        chat.insert(0, {"role": "system", "content": row.system})
    text = TOKENIZER.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) + answer + "<|im_end|>"
    vision = processed(row.image)
    tokens = int(vision["image_grid_thw"].prod()) // 4
    ids = torch.tensor([TOKENIZER.encode(text.replace("<|image_pad|>", "<|image_pad|>" * tokens))])
    image = TOKENIZER.convert_tokens_to_ids("<|image_pad|>")
    kinds = (ids == image).int()
    output = model(input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=kinds, **vision)
    end = TOKENIZER.convert_tokens_to_ids("<|vision_end|>")
    return output.logits[0], ids.shape[1] - ids[0].tolist().index(end) - 1
