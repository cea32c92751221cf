"""Puts the parts together over a loaded pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from vqa.errors import NotReady
from workers.engine.continuous.block_manager import Pages
from workers.engine.continuous.encode import fit_of, positions_of
from workers.engine.continuous.kv_cache import Cache
from workers.engine.continuous.lengths import COMMON
from workers.engine.continuous.loop import Loop
from workers.engine.continuous.model.image_features import Features
from workers.engine.continuous.model.language import LanguageModel
from workers.engine.continuous.model.vision import MOST_GRID_BYTES, VisionTower
from workers.engine.continuous.model.weights import language_of
from workers.engine.continuous.model_runner import Runner
from workers.engine.continuous.ops.select import ops_for
from workers.engine.continuous.prefill import Piece, Prefill
from workers.engine.continuous.requests import Request, Sight
from workers.engine.continuous.scheduler import Scheduler
from workers.engine.fair_share import Reserve
from workers.engine.image import Fit
from workers.engine.model.footprint import free_memory
from workers.engine.model.loading import eos_ids
from workers.engine.settings import EngineSettings

#: for the graphs' own memory, what lies idle between blocks, and the libraries'
_MARGIN_BYTES = 2 * 2**30

#: bytes a token of the vocabulary and row: what drawing needs (`sampling.draw`: floats, sorted, numbers, sums)
_DRAWING_BYTES = 36

#: of the machine's memory that nobody uses, where there is no card
_CPU_PART = 0.25


def room_bytes(device: torch.device, trial: Callable[[], int], drawing_elements: int, kept_bytes: int) -> int:
    """Bytes for the cache on this device. `trial` is the largest prefill that there may be; it tells its cache's bytes.

    `drawing_elements` are rows x vocabulary, `kept_bytes` what else will be kept. May be negative.
    """
    if device.type == "cpu":
        return int(free_memory() * _CPU_PART)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    own = trial()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before - own
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    # blocks of many sizes do not lie as close as those of one prefill
    return int(free - 1.15 * peak - drawing_elements * _DRAWING_BYTES - kept_bytes - _MARGIN_BYTES)


def largest_prefill(tokens: int, fit: Fit, patch: int, merge: int, page_tokens: int) -> list[Piece]:
    """Pieces of an image more than so many tokens, nearly all of them images' of the largest size."""
    side = int(fit.max_pixels**0.5) // fit.factor * fit.factor
    rows = side // patch
    pieces: list[Piece] = []
    used = 0
    # one image more than fit: a piece may begin and end within images
    while sum(piece.stop for piece in pieces[1:]) < tokens:
        sight = Sight(bytes(side * side * 3), rows, rows, 1, (rows // merge) ** 2, str(used))
        count = sight.tokens + 2
        positions = positions_of(count, [(1, rows // merge, rows // merge)])
        request = Request(torch.zeros(count, dtype=torch.int64), positions, (sight,))
        pages = tuple(range(used, used - (-count // page_tokens)))
        used += len(pages)
        pieces.append(Piece(request, 0, pages, 0, count))
    return pieces


#: On a card the pages are the tiles of attention. A smaller page leaves less of it empty.
PAGE_TOKENS = {"cuda": 64, "cpu": 16}


#: a CPU gains nothing by more at once, and the first prompt waits for the last one
_CPU_PREFILL_TOKENS = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """What serves, and what computes for it."""

    loop: Loop
    runner: Runner
    pages: Pages


@torch.inference_mode()
def build(pipe: Any, settings: EngineSettings, slots: int) -> Built:
    """All parts for `slots`. Raises NotReady where there is no room for one prompt."""
    model, processor = pipe.model, pipe.processor.image_processor
    ops, weights = ops_for(model.device), language_of(model)
    vision = VisionTower(model, processor, ops)
    size = PAGE_TOKENS[model.device.type]

    def language_with(pages: int) -> LanguageModel:
        return LanguageModel(weights, Cache.of(weights, pages, size), ops)

    def trial() -> int:
        fit = fit_of(processor)
        pieces = largest_prefill(settings.prefill_tokens, fit, processor.patch_size, processor.merge_size, size)
        language = language_with(sum(len(piece.pages) for piece in pieces))
        prefill = Prefill(language, Features(vision.see, 0), ops, vision.deep_layers)
        # until its lengths are planned for: the first plan of all takes cuDNN a second, in which nobody is to wait
        for _ in range(1 + -(-COMMON // len(pieces))):
            prefill.run(pieces)
        return language.cache.nbytes

    pages = _pages(trial, model.device, settings, slots, Cache.of(weights, 0, size).nbytes, len(weights.head))
    language = language_with(pages.count)
    features = Features(vision.see, settings.vision_reuse_mib * 2**20)
    prefill = Prefill(language, features, ops, vision.deep_layers)
    runner = Runner(language, prefill, ops, slots, pages.needed(settings.slot_tokens))
    budget = (
        settings.prefill_tokens if model.device.type == "cuda" else min(settings.prefill_tokens, _CPU_PREFILL_TOKENS)
    )
    loop = Loop(
        Scheduler(slots, pages, budget, Reserve.from_settings(settings, slots)), runner, pipe.tokenizer, eos_ids(pipe)
    )
    return Built(loop, runner, pages)


def _pages(
    trial: Callable[[], int], device: torch.device, settings: EngineSettings, slots: int, page_bytes: int, words: int
) -> Pages:
    """As many pages as there is room for, and no more than the slots could ever fill."""
    size = PAGE_TOKENS[device.type]
    room = room_bytes(device, trial, slots * words, settings.vision_reuse_mib * 2**20 + MOST_GRID_BYTES)
    most = max(0, room // page_bytes)
    if most * size <= settings.max_image_tokens:
        raise NotReady(
            f"{settings.model} leaves room for {most * size} tokens on the card, and one image takes "
            f"{settings.max_image_tokens} (VQA_MAX_IMAGE_TOKENS); compute less at once (VQA_PREFILL_TOKENS="
            f"{settings.prefill_tokens}), keep no features (VQA_VISION_REUSE_MIB=0), or take a smaller model"
        )
    # on a CPU all of it is taken from others at once: what is usual for each slot, and room for one of the longest
    usual = settings.slot_tokens if device.type == "cuda" else settings.planned_tokens
    return Pages(min(most, max(slots * -(-usual // size), -(-settings.slot_tokens // size))), size)
