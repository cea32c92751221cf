"""A random Qwen3-VL of a few thousand numbers, built where the tests run: the real classes, nothing learnt."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Protocol

import pytest
from PIL import Image

from training.questions import Item
from workers.engine.base import Completion, Prompt, SamplingParams, Turn
from workers.engine.image import RGBImage
from workers.engine.pipeline.engine import PipelineEngine
from workers.engine.settings import EngineSettings

#: seconds; for what takes milliseconds on an idle machine
SOON = 60

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TEMPLATE = """{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\\n' }}{%- for c in m['content'] -%}
{%- if c['type'] == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif c['type'] == 'video' -%}<|vision_start|><|video_pad|><|vision_end|>{%- else -%}{{ c['text'] }}{%- endif -%}
{%- endfor -%}{{ '<|im_end|>\\n' }}{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"""
#: as that of the released thinking checkpoints
THINKING_TEMPLATE = TEMPLATE.replace(
    "{{ c['text'] }}",
    "{{ c['text'].split('</think>')[-1].lstrip('\\n') if m['role'] == 'assistant' else c['text'] }}",
).replace("assistant\\n'", "assistant\\n<think>\\n'")
# as the released checkpoints write it
IMAGES = {
    "size": {"shortest_edge": 64 * 64, "longest_edge": 256 * 256},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "Qwen3VLProcessor",
    "image_processor_type": "Qwen2VLImageProcessorFast",
}
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 32_768,
    # smaller, and all answers look alike
    "initializer_range": 0.25,
    # mrope_section must sum to half of head_dim
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": [4, 2, 2],
        "mrope_interleaved": True,
    },
}
VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": 64,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0],
    "initializer_range": 0.25,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def build_model(folder: Path, experts: bool, thinks: tuple[str, ...] | None = None, **vision: Any) -> Path:
    """Write the model's folder: Qwen3-VL, dense or with experts, whose tokens are bytes; `vision` changes its tower.

    If it `thinks`, its template opens a thought before an answer and leaves out earlier ones; `thinks` are the tokens
    that it has for the ends of thoughts.
    """
    import torch
    from tokenizers import AddedToken
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import (
        GenerationConfig,
        Qwen2Tokenizer,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLMoeConfig,
        Qwen3VLMoeForConditionalGeneration,
    )

    vocabulary = {token: id for id, token in enumerate((*SPECIAL, *sorted(ByteLevel.alphabet())))}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=[token for token in SPECIAL if token not in {"<|im_end|>", "<|endoftext|>"}],
    )
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in thinks or ()])
    ids: Any = tokenizer.convert_tokens_to_ids
    text = {**TEXT, **(EXPERTS if experts else {}), "vocab_size": len(tokenizer), "pad_token_id": 0}
    config = (Qwen3VLMoeConfig if experts else Qwen3VLConfig)(
        text_config=text,
        vision_config={**VISION, **vision},
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = (Qwen3VLMoeForConditionalGeneration if experts else Qwen3VLForConditionalGeneration)(config)
    model.generation_config = GenerationConfig(
        eos_token_id=[ids("<|im_end|>"), ids("<|endoftext|>")], pad_token_id=ids("<|endoftext|>")
    )
    if thinks is not None:
        # `generate` cannot go on behind a placeholder of an image that there is not
        model.lm_head.weight.data[[ids("<|image_pad|>"), ids("<|video_pad|>")]] = 0
    if thinks:
        # so that its thoughts end by themselves, too
        model.lm_head.weight.data[ids("</think>")] *= 2
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE if thinks is None else THINKING_TEMPLATE)
    (folder / "preprocessor_config.json").write_text(json.dumps(IMAGES))
    return folder


@pytest.fixture(scope="session")
def dense_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("dense"), experts=False)


@pytest.fixture(scope="session")
def expert_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("experts"), experts=True)


def image(number: int = 0) -> RGBImage:
    """An image of its own size and content for each number."""
    noise = Image.linear_gradient("L").resize((64 + 32 * (number % 4), 96)).rotate(17 * number)
    return RGBImage.from_pil(Image.merge("RGB", (noise, noise.rotate(90), noise.rotate(180))))


def ask(number: int = 0, question: str = "how many dogs are there?", **how: Any) -> Prompt:
    """A prompt of one image and one question, both of their own for each number."""
    parts = (image(number), f"{question} {'again ' * (number % 3)}")
    return make_prompt(f"job-{number}", (Turn("user", parts),), **how)


def ask_about(item: Item, id: str, max_new_tokens: int = 16) -> Prompt:
    """A prompt of a question from `training.questions`."""
    return make_prompt(id, (Turn("user", (RGBImage.from_pil(item.image), item.question)),), max_new_tokens)


def guided(prompt: Prompt, grammar: str | None) -> Prompt:
    """The prompt, to be answered by a grammar."""
    return replace(prompt, params=replace(prompt.params, grammar=grammar))


def make_prompt(id: str, turns: tuple[Turn, ...], max_new_tokens: int = 12, **how: Any) -> Prompt:
    """A prompt; `how` has fields of Prompt and of SamplingParams."""
    params = {field.name: how.pop(field.name) for field in fields(SamplingParams) if field.name in how}
    return Prompt(id, turns, SamplingParams(max_new_tokens, **params), **how)


class Starting(Protocol):
    """Starts an engine over the dense model; it is stopped when the test ends."""

    def __call__(self, slots: int = 8, **settings: Any) -> PipelineEngine: ...


#: what escaped, and the ids of the prompts that raised it
Crashes = list[tuple[BaseException, tuple[str, ...]]]


@pytest.fixture
def crashes() -> Crashes:
    """What `on_crash` of the test's engines was called with."""
    return []


@pytest.fixture
def starting(dense_model: Path, crashes: Crashes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Starting]:
    engines = []
    # what is submitted at once runs together, on a slow machine too
    monkeypatch.setattr("workers.engine.pipeline.batcher._ENCODING_WAIT_S", SOON)

    def start(slots: int = 8, wait_s: float = 0.1, **settings: Any) -> PipelineEngine:
        given = {"model": str(dense_model), **settings}
        engine = PipelineEngine(EngineSettings(**given), slots, wait_s=wait_s)
        engines.append(engine)
        engine.start(lambda error, ids: crashes.append((error, tuple(ids))))
        return engine

    yield start
    for engine in engines:
        engine.stop()


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the microbatches that are run from now on, failed ones included."""
    from workers.engine.pipeline.replica import Replica

    sizes: list[int] = []
    run = Replica._run

    def counting(replica: Replica, rows: list[Any]) -> None:
        sizes.append(len(rows))
        run(replica, rows)

    monkeypatch.setattr(Replica, "_run", counting)
    return sizes


def answers(engine: PipelineEngine, prompts: list[Prompt]) -> list[Completion]:
    """Submitted at once."""
    return [future.result(SOON) for future in [engine.submit(prompt) for prompt in prompts]]


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll; fails the test after SOON."""
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it has not come about"
        time.sleep(0.005)
