"""Decides what the engine computes next: which prompts get slots, which chunks are prefilled, which sequences decode.

Pure Python on numbers of tokens, slots and blocks, without tensors or a model. A sequence gets the blocks for its
longest possible answer together with its slot, so no running sequence ever waits for memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from vqa.job import LANES
from workers.engine.continuous.block_manager import BlockManager
from workers.engine.continuous.sequence import Chunk, Sequence
from workers.engine.fair_share import FairShare, Reserve

#: The most decode steps for which prompts in slots wait to be prefilled together with more, and only while others wait
#: for slots. A prefill reads all weights however few its tokens are: 8 images take an H200 only twice as long as 2.
HOLD_STEPS = 8

#: the most prefills in a row in which interactive prompts overtake the one that has waited longest in its slot
MAX_PASSED_OVER = 4

#: cost of a prefill in decode steps: a constant, and one per _TOKENS_PER_STEP tokens (H200, 30B, one image a prompt)
_PREFILL_STEPS, _TOKENS_PER_STEP = 2, 700


@dataclass(frozen=True, slots=True)
class PrefillBatch:
    """Chunks of several prompts to compute in one forward pass."""

    chunks: tuple[Chunk, ...]

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class DecodeBatch:
    """Sequences to compute one token each for."""

    sequences: tuple[Sequence, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one forward pass computes: a token of each sequence that decodes, and chunks of prompts."""

    decode: tuple[Sequence, ...]
    chunks: tuple[Chunk, ...]

    @property
    def num_tokens(self) -> int:
        return len(self.decode) + sum(chunk.num_tokens for chunk in self.chunks)

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """Those that get a token of their answer, in the order of the pass's output rows."""
        return self.decode + tuple(chunk.sequence for chunk in self.chunks if chunk.is_last)


class Scheduler:
    """Queues sequences by lane, gives them slots and blocks, and forms batches."""

    def __init__(
        self, slots: int, block_manager: BlockManager, prefill_tokens: int, reserve: Reserve | None = None
    ) -> None:
        """Compute at most `prefill_tokens` tokens between two decode steps: decoding sequences wait for them."""
        self._block_manager = block_manager
        self._prefill_tokens = prefill_tokens
        self._slots = slots
        self._reserve = reserve or Reserve()
        self._fair_share = FairShare()
        self._free_slots = list(range(slots - 1, -1, -1))
        self._waiting: dict[str, deque[Sequence]] = {lane: deque() for lane in LANES}
        self._running: list[Sequence] = []
        self._last_was_prefill = False
        #: decode steps since a running prompt could have been prefilled
        self._held_steps = 0
        #: decode steps still to come before the next prefill, to make up for the last one
        self._owed_steps = 0
        #: prefills in a row without a chunk of the prompt that has waited longest
        self._passed_over = 0

    @property
    def running(self) -> tuple[Sequence, ...]:
        """The sequences with slots, in the order in which they got them."""
        return tuple(self._running)

    @property
    def max_len(self) -> int:
        """Tokens of the longest sequence that the cache can hold."""
        return self._block_manager.num_blocks * self._block_manager.block_size

    def fits(self, seq: Sequence) -> bool:
        """Whether the cache has enough blocks for it when empty."""
        return seq.max_len <= self.max_len

    def add(self, seq: Sequence) -> None:
        """Queue a sequence that `fits`."""
        self._reserve.saw(seq.lane)
        self._waiting[seq.lane].append(seq)

    def finish(self, seq: Sequence) -> None:
        """Release its slot and blocks. Output still in flight for it is discarded. Calling it twice is harmless."""
        if seq.finished:
            return
        seq.finished = True
        if seq.slot is not None:
            self._running.remove(seq)
            self._free_slots.append(seq.slot)
            self._block_manager.free(seq.blocks)
            seq.slot = None

    def schedule(self) -> PrefillBatch | DecodeBatch | None:
        """Return the next batch, None if there is nothing to compute; its tokens count as computed from here on."""
        self._admit()
        if self._prefills_now():
            oldest = next(seq for seq in self._running if seq.is_prefilling)
            batch = PrefillBatch(tuple(self._chunks()))
            self._passed_over = 0 if any(chunk.sequence is oldest for chunk in batch.chunks) else self._passed_over + 1
            self._last_was_prefill, self._held_steps = True, 0
            self._owed_steps = min(HOLD_STEPS, _PREFILL_STEPS + batch.num_tokens // _TOKENS_PER_STEP)
            return batch
        decoding = tuple(seq for seq in self._running if seq.is_decoding)
        if not decoding:
            return None
        self._last_was_prefill = False
        self._held_steps += any(seq.is_prefilling for seq in self._running)
        self._owed_steps = max(0, self._owed_steps - 1)
        for seq in decoding:
            seq.num_generated += 1
        return DecodeBatch(decoding)

    def _prefills_now(self) -> bool:
        left = sum(seq.num_prompt_tokens - seq.num_prefilled for seq in self._running if seq.is_prefilling)
        if not left or not any(seq.is_decoding for seq in self._running):
            return left > 0
        # always a decode step between two prefills
        if self._last_was_prefill:
            return False
        if left >= self._prefill_tokens or self._held_steps >= HOLD_STEPS:
            return True
        # Decoding gets as much time as the last prefill took. Otherwise prompts that arrive one by one, each prefilled
        # at once, would leave it one step between two prefills.
        return not self._owed_steps and not self._more_may_join()

    def _more_may_join(self) -> bool:
        """Whether a waiting prompt may still join the next prefill; an interactive prompt is not held for bulk."""
        if any(seq.is_prefilling and seq.lane == "interactive" for seq in self._running):
            return any(not seq.finished for seq in self._waiting["interactive"])
        return any(not seq.finished for waiting in self._waiting.values() for seq in waiting)

    def _chunks(self) -> Iterator[Chunk]:
        budget = self._prefill_tokens
        for seq in self._prefill_order():
            left = seq.num_prompt_tokens - seq.num_prefilled
            # only prompts over the whole budget are split: a later chunk reads the earlier ones from the cache again
            if budget and (left <= budget or left > self._prefill_tokens):
                chunk = Chunk(seq, seq.num_prefilled, min(seq.num_prompt_tokens, seq.num_prefilled + budget))
                budget -= chunk.num_tokens
                seq.num_prefilled = chunk.stop
                # the last chunk yields the first token of the answer
                seq.num_generated = int(chunk.is_last)
                yield chunk

    def _prefill_order(self) -> list[Sequence]:
        """Prompts that have begun, then by lane; in the order of their slots once the oldest was passed over enough."""
        prefilling = [seq for seq in self._running if seq.is_prefilling]
        if self._passed_over >= MAX_PASSED_OVER:
            return prefilling
        return sorted(prefilling, key=lambda seq: (not seq.num_prefilled, LANES.index(seq.lane)))

    def _admit(self) -> None:
        while self._free_slots and (seq := self._next_waiting()) is not None and self._can_enter(seq):
            self._waiting[seq.lane].popleft()
            self._fair_share.served(seq.lane, self._waiting_lanes())
            seq.slot = self._free_slots.pop()
            seq.blocks = self._block_manager.allocate(self._block_manager.blocks_for(seq.max_len))
            self._running.append(seq)

    def _next_waiting(self) -> Sequence | None:
        for waiting in self._waiting.values():
            while waiting and waiting[0].finished:
                waiting.popleft()
        heads = [self._waiting[lane][0] for lane in self._fair_share.order(self._waiting_lanes())]
        return next((seq for seq in heads if seq.lane != "bulk" or self._admits_bulk()), None)

    def _waiting_lanes(self) -> list[str]:
        return [lane for lane, waiting in self._waiting.items() if waiting]

    def _admits_bulk(self) -> bool:
        bulk = sum(seq.lane == "bulk" for seq in self._running)
        return self._reserve.admits_bulk(self._slots, len(self._running), bulk, self._fair_share.is_due("bulk"))

    def _can_enter(self, seq: Sequence) -> bool:
        if any(other.alone for other in self._running) or (seq.alone and self._running):
            return False
        blocks = self._block_manager
        return blocks.blocks_for(seq.max_len) <= blocks.num_free - self._reserved_blocks(seq)

    def _reserved_blocks(self, seq: Sequence) -> int:
        """Blocks of the reserved slots, which bulk leaves free unless its turn is due or no other sequence runs."""
        if seq.lane != "bulk" or self._fair_share.is_due("bulk") or not self._running:
            return 0
        return self._reserve.places * (self._block_manager.num_blocks // self._slots)
