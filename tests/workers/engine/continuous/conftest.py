"""Loaded models for the engine's parts, and the loop driven turn by turn."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker_process import TINY
from tests.workers.engine.conftest import make_prompt
from workers.engine.base import Completion, Prompt, Turn
from workers.engine.continuous.block_manager import BlockManager
from workers.engine.continuous.encode import RequestEncoder
from workers.engine.continuous.loop import Loop
from workers.engine.continuous.model.image_features import ImageFeatures
from workers.engine.continuous.model.language import LanguageModel
from workers.engine.continuous.model.vision import VisionTower
from workers.engine.continuous.model.weights import language_weights
from workers.engine.continuous.model_runner import ModelRunner
from workers.engine.continuous.ops.select import ops_for
from workers.engine.continuous.requests import Intake, Request
from workers.engine.continuous.scheduler import Scheduler
from workers.engine.model.loading import eos_ids, load
from workers.engine.pipeline.encoding import Encoder
from workers.engine.runtime.heartbeat import Heartbeat
from workers.engine.runtime.pending import Pending
from workers.engine.settings import EngineSettings

#: turns of the loop that a test may take
MOST_TURNS = 20_000


@pytest.fixture(scope="session")
def dense(dense_model: Path) -> Any:
    """Its pipeline."""
    return load(EngineSettings(model=str(dense_model)))


@pytest.fixture(scope="session")
def experts(expert_model: Path) -> Any:
    """Its pipeline."""
    return load(EngineSettings(model=str(expert_model)))


@pytest.fixture(scope="session")
def bundled() -> Any:
    """The pipeline of the model that ships."""
    return load(EngineSettings(model=str(TINY)))


class Numbers:
    """A tokenizer whose words are the tokens' numbers: an answer's text tells every token of it."""

    all_special_ids: tuple[int, ...] = ()

    def decode(self, tokens: Sequence[int], **_: object) -> str:
        return " ".join(map(str, tokens))


class Timetable(Intake):
    """Prompts that arrive, and are cancelled, at certain turns of the loop; closed when all have ended."""

    def __init__(
        self,
        arrivals: Mapping[int, Sequence[tuple[Pending, Request]]],
        ends: Callable[[int], None] = lambda turn: None,
    ) -> None:
        super().__init__()
        self._arrivals = dict(arrivals)
        self._all = [pending for some in arrivals.values() for pending, _ in some]
        self._ends = ends
        self.turn = 0

    def take(self, wait: bool) -> list[tuple[Pending, Request]] | None:
        self.turn += 1
        assert self.turn < MOST_TURNS, "it hangs"
        if wait and self._arrivals:
            self.turn = max(self.turn, min(self._arrivals))
        self._ends(self.turn)
        due = [at for at in self._arrivals if at <= self.turn]
        if all(pending.settled for pending in self._all):
            return None
        assert due or not wait, "it waits for ever"
        return [arrival for at in sorted(due) for arrival in self._arrivals.pop(at)]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything an engine has."""

    slots: int = 4
    blocks: int = 64
    block_size: int = 16
    prefill_tokens: int = 256
    reuse_bytes: int = 0


def with_params(prompt: Prompt, id: str | None = None, **params: Any) -> Prompt:
    """The prompt with some sampling parameters changed."""
    return replace(prompt, id=id or prompt.id, params=replace(prompt.params, **params))


class Bench:
    """The engine's parts over one loaded model, put together anew for each run, as `build` does."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.ops = ops_for(pipe.model.device)
        self.weights = language_weights(pipe.model)
        self.vision = VisionTower(pipe.model, pipe.processor.image_processor, self.ops)
        self.encoder = RequestEncoder(pipe.processor, slot_tokens=4096)
        self._reference = Encoder(pipe, slot_tokens=4096)
        self._generated = functools.cache(self._generate)
        self.ends = eos_ids(pipe)

    @torch.inference_mode()
    def loop(self, sizes: Sizes, eos_ids: Collection[int] = ()) -> Loop:
        block_manager = BlockManager(sizes.blocks, sizes.block_size)
        language = LanguageModel(self.weights, self.weights.new_kv_cache(sizes.blocks, sizes.block_size), self.ops)
        features = ImageFeatures(self.vision.encode_images, sizes.reuse_bytes)
        runner = ModelRunner(language, features, self.ops, sizes.slots, sizes.blocks)
        if self.pipe.model.device.type == "cuda":
            runner.capture(sizes.prefill_tokens, 1 + self.vision.deepstack_layers)
        return Loop(Scheduler(sizes.slots, block_manager, sizes.prefill_tokens), runner, Numbers(), eos_ids)

    def request(self, prompt: Prompt) -> Request:
        return self.encoder.encode(prompt)

    def answer(self, sizes: Sizes, arrivals: Mapping[int, Sequence[Prompt]]) -> dict[str, Completion]:
        """What each prompt gets, by its id; texts are of numbers."""
        pending = {at: [Pending(prompt) for prompt in prompts] for at, prompts in arrivals.items()}
        table = {at: [(each, self.request(each.prompt)) for each in some] for at, some in pending.items()}
        self.loop(sizes, self.ends).serve(Timetable(table), Heartbeat(60))
        return {each.prompt.id: each.future.result(0) for some in pending.values() for each in some}

    def expected(self, prompt: Prompt) -> tuple[int, ...]:
        """The tokens of `generate`, the one that ends the text included."""
        return self._generated(prompt.turns, prompt.params.max_new_tokens)

    @torch.inference_mode()
    def _generate(self, turns: tuple[Turn, ...], max_new_tokens: int) -> tuple[int, ...]:
        encoded = self._reference.encode(make_prompt("expected", turns, max_new_tokens))
        inputs = {name: tensor.to(self.pipe.model.device) for name, tensor in encoded.tensors.items()}
        made = self.pipe.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
        return tuple(made[0, inputs["input_ids"].shape[1] :].tolist())


@pytest.fixture(scope="session")
def dense_bench(dense: Any) -> Bench:
    return Bench(dense)


@pytest.fixture(scope="session")
def expert_bench(experts: Any) -> Bench:
    return Bench(experts)


@pytest.fixture(scope="session")
def bundled_bench(bundled: Any) -> Bench:
    return Bench(bundled)
