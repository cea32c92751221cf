"""Builds the engine's parts over a loaded pipeline, and sizes the KV cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from vqa.errors import NotReady
from workers.engine.continuous.block_manager import BlockManager
from workers.engine.continuous.lengths import COMMON
from workers.engine.continuous.loop import Loop
from workers.engine.continuous.model.float8 import read_weights
from workers.engine.continuous.model.image_features import ImageFeatures
from workers.engine.continuous.model.language import LanguageModel
from workers.engine.continuous.model.vision import MAX_GRID_BYTES, MAX_PATCHES, VisionTower
from workers.engine.continuous.model.weights import LanguageWeights
from workers.engine.continuous.model_runner import ModelRunner
from workers.engine.continuous.ops.select import ops_for
from workers.engine.continuous.scheduler import Batch, Scheduler
from workers.engine.continuous.trial_prompts import TrialPrompts
from workers.engine.detail import ImageTokens
from workers.engine.fair_share import Reserve
from workers.engine.model.footprint import free_memory
from workers.engine.model.generation_config import greedy_rules
from workers.engine.model.image_sizes import read_fit
from workers.engine.model.loading import eos_ids
from workers.engine.settings import EngineSettings

#: for the CUDA graphs, for memory that lies idle in torch's allocator, and for the libraries
_MARGIN_BYTES = 2 * 2**30

#: bytes for each row and token of the vocabulary: 36 of `sample_top_p` (probabilities, sorted tokens, sums), 4 of
#: the logits that the sampler changes, 3 of the table of tokens that penalties need
_SAMPLING_BYTES = 43

#: share of the machine's free memory for the cache where there is no card
_CPU_SHARE = 0.25

#: tokens of a KV cache block. On a card blocks are the tiles of the attention kernel; smaller ones waste less memory.
BLOCK_SIZE = {"cuda": 64, "cpu": 16}

#: A CPU gains nothing from a larger prefill, and its first prompt waits for the last.
_CPU_PREFILL_TOKENS = 1024


def kv_cache_bytes(device: torch.device, trial: Callable[[], int], sampling_elements: int, kept_bytes: int) -> int:
    """Return the bytes that the KV cache may take on this device; may be negative.

    `trial` runs the largest possible prefill and returns the bytes of its own cache. `sampling_elements` are slots x
    vocabulary; `kept_bytes` are needed for other things.
    """
    if device.type == "cpu":
        return int(free_memory() * _CPU_SHARE)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    trial_cache_bytes = trial()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before - trial_cache_bytes
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    # 15 % for fragmentation: real prefills allocate memory of many sizes
    return int(free - 1.15 * peak - sampling_elements * _SAMPLING_BYTES - kept_bytes - _MARGIN_BYTES)


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """The parts of an engine that are used from outside."""

    loop: Loop
    block_manager: BlockManager


@torch.inference_mode()
def build(pipe: Any, settings: EngineSettings, slots: int) -> Built:
    """Build all parts for `slots` slots. Raises NotReady if there is no memory for one image."""
    model, processor = pipe.model, pipe.processor.image_processor
    ops, weights = ops_for(model.device), read_weights(model, settings)
    vision = VisionTower(model, processor, ops)
    size = BLOCK_SIZE[model.device.type]
    suppressed = greedy_rules(model.generation_config.to_dict()).suppressed

    def runner_of(num_blocks: int, slots: int, slot_blocks: int, reuse_bytes: int) -> ModelRunner:
        language = LanguageModel(weights, weights.new_kv_cache(num_blocks, size), ops)
        features = ImageFeatures(vision.encode_images, reuse_bytes)
        return ModelRunner(language, features, ops, slots, slot_blocks, suppressed)

    def trial() -> int:
        fit, tokens = read_fit(processor), settings.prefill_tokens
        sizes = (processor.patch_size, processor.merge_size, size)
        largest = TrialPrompts(fit, *sizes).largest(tokens)
        usual = TrialPrompts(ImageTokens.from_settings(settings).usual_fit(fit), *sizes).whole(tokens)
        chunks = max(largest, usual, key=lambda some: sum(len(chunk.sequence.blocks) for chunk in some))
        blocks = sum(len(chunk.sequence.blocks) for chunk in chunks)
        most = max(len(chunk.sequence.blocks) for chunk in (*largest, *usual))
        runner = runner_of(blocks, max(len(largest), len(usual)), most, reuse_bytes=0)
        runner.forward(Batch((), tuple(largest)))
        # until its lengths are planned for: cuDNN's very first plan takes a second, in which no prompt should wait
        for _ in range(1 + -(-COMMON // len(usual))):
            runner.forward(Batch((), tuple(usual)))
        # prompts that find all but the ends of many images in the KV cache need these images whole
        image = usual[0].images[0]
        for _ in vision.encode_images([image] * (MAX_PATCHES // image.patches)):
            pass
        return runner.cache.nbytes

    block_manager = _block_manager(trial, weights, settings, slots)
    slot_blocks = block_manager.blocks_for(settings.slot_tokens)
    runner = runner_of(block_manager.num_blocks, slots, slot_blocks, settings.vision_reuse_mib * 2**20)
    on_card = model.device.type == "cuda"
    budget = settings.prefill_tokens if on_card else min(settings.prefill_tokens, _CPU_PREFILL_TOKENS)
    if on_card:
        runner.capture(budget, 1 + vision.deepstack_layers)
    scheduler = Scheduler(slots, block_manager, budget, Reserve.from_settings(settings, slots))
    loop = Loop(scheduler, runner, pipe.tokenizer, eos_ids(pipe))
    return Built(loop, block_manager)


def _block_manager(
    trial: Callable[[], int], weights: LanguageWeights, settings: EngineSettings, slots: int
) -> BlockManager:
    """Return as many blocks as fit in memory, but no more than the slots can fill."""
    device, sampling_elements = weights.head.device, slots * len(weights.head)
    size = BLOCK_SIZE[device.type]
    # a cache of no blocks consists of the null block
    block_bytes = weights.new_kv_cache(0, size).nbytes
    free = kv_cache_bytes(device, trial, sampling_elements, settings.vision_reuse_mib * 2**20 + MAX_GRID_BYTES)
    fitting = max(0, free // block_bytes)
    if fitting * size <= settings.max_image_tokens:
        raise NotReady(
            f"{settings.model} leaves room for {fitting * size} tokens on the card, and one image takes "
            f"{settings.max_image_tokens} (VQA_MAX_IMAGE_TOKENS); compute less at once (VQA_PREFILL_TOKENS="
            f"{settings.prefill_tokens}), keep no features (VQA_VISION_REUSE_MIB=0), or take a smaller model"
        )
    # on a CPU the whole cache is taken from other programs, so plan for usual prompts and for one of the longest
    slot_tokens = settings.slot_tokens if device.type == "cuda" else settings.planned_tokens
    return BlockManager(min(fitting, max(slots * -(-slot_tokens // size), -(-settings.slot_tokens // size))), size)
