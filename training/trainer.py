"""A model in training: the step, and the evaluation on held-out and familiar items.

Knows the optimiser and the devices; `training.train` knows the schedule.
"""

import contextlib
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3VLForConditionalGeneration

from training.architecture import Shape, build_config, generation_config
from training.data import Batch, Collator, TrainingBatches, item_batches, layout_for, rounded_sizes
from training.fast_path import FastPath, Fixed, fix
from training.layout import Layout
from training.objective import GROUNDING_WEIGHT, Grounding, loss, right
from training.phrasings import FAMILIES
from training.questions import Item, familiar, held_out
from training.replay import Losses, Replay
from training.tokenizer import train_tokenizer


@dataclass(frozen=True)
class Recipe:
    """Settings of a run. The learning rate warms up by steps, then falls to zero linearly in the remaining time."""

    minutes: float = 9.0
    images: int = 256
    questions: int = 6
    processes: int = 15
    rate: float = 1.2e-3
    decay: float = 0.05
    warm_up: int = 300
    clip: float = 1.0
    seed: int = 0
    compiled: bool = True
    max_steps: int = 10**9
    report_every: int = 1000
    examine: int = 1000


class Trainer:
    """One model, one device."""

    def __init__(self, recipe: Recipe, shape: Shape = Shape(), start: Path | None = None) -> None:  # noqa: B008 (frozen)
        torch.manual_seed(recipe.seed)
        torch.set_float32_matmul_precision("high")
        self.recipe, self.tokenizer = recipe, train_tokenizer()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = self._build(shape, start).to(self.device)
        self.grounding = Grounding(shape.width).to(self.device)
        self.batches = TrainingBatches(self.tokenizer, recipe.images, recipe.questions, recipe.seed)
        self._pad: int = self.tokenizer.pad_token_id
        self._fixed: dict[Layout, Fixed] = {}
        self._path, self._plain = FastPath(self.model, recipe.compiled), FastPath(self.model)
        self._parameters = [*self.model.parameters(), *self.grounding.parameters()]
        self._optimizer = self._build_optimizer()
        self._replay = Replay(self._step, self.device)
        self._held_out = list(item_batches(self.tokenizer, held_out(recipe.examine, seed=1)))
        self._familiar = list(item_batches(self.tokenizer, familiar(recipe.examine, seed=1)))

    def prepare(self) -> None:
        """Capture every layout; the model does not change, because the learning rate is zero."""
        rng, collator = random.Random(0), Collator(self.tokenizer)
        for size in rounded_sizes() if self.device.type == "cuda" else ():
            self._replay.capture(layout_for(size, self.recipe.questions), self.batches.draw(rng, collator, size))

    def step(self, batch: Batch, rate: float) -> Losses:
        """Run one optimiser step; return both losses, still on the device."""
        for group in self._optimizer.param_groups:
            group["lr"].fill_(rate)
        height, width = batch.pixels.shape[1:3]
        return self._replay(layout_for((width, height), self.recipe.questions), batch)

    def examine(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the accuracy on held-out and on familiar questions, overall and by family."""
        return self._accuracy(self._held_out), self._accuracy(self._familiar)

    def _step(self, layout: Layout, batch: Batch) -> Losses:
        with self._half_precision():
            answers, seen = loss(self._path, self.grounding, self._fixed_for(layout), batch, self._pad)
        self._optimizer.zero_grad(set_to_none=True)
        (answers + GROUNDING_WEIGHT * seen).backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, self.recipe.clip)
        self._optimizer.step()
        return answers.detach(), seen.detach()

    def _accuracy(self, batches: list[tuple[Layout, Batch, list[Item]]]) -> dict[str, float]:
        hits: dict[str, list[bool]] = defaultdict(list)
        for layout, batch, items in batches:
            batch = Batch(*(part.to(self.device) for part in batch))
            with self._half_precision():
                found = right(self._plain, self._fixed_for(layout), batch, self._pad)
            for item, hit in zip(items, found, strict=True):
                hits[item.family].append(hit)
                hits["all"].append(hit)
        return {name: sum(hits[name]) / max(1, len(hits[name])) for name in ("all", *FAMILIES)}

    def _fixed_for(self, layout: Layout) -> Fixed:
        if layout not in self._fixed:
            self._fixed[layout] = fix(layout, self.model.config, self.device)
        return self._fixed[layout]

    def _half_precision(self) -> Any:
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else contextlib.nullcontext()

    def _build(self, shape: Shape, start: Path | None) -> Any:
        if start is not None:
            return Qwen3VLForConditionalGeneration.from_pretrained(start, dtype=torch.float32).train()
        model: Any = Qwen3VLForConditionalGeneration(build_config(self.tokenizer, shape))
        model.generation_config = generation_config(self.tokenizer)
        return model

    def _build_optimizer(self) -> torch.optim.AdamW:
        groups = [
            {"params": [p for p in self._parameters if p.dim() > 1], "weight_decay": self.recipe.decay},
            {"params": [p for p in self._parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
        cuda = self.device.type == "cuda"
        # A tensor, so that a captured step reads the current rate.
        rate = torch.zeros((), device=self.device)
        return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=cuda, capturable=cuda)
