"""Decides what each forward pass computes: which prompts get slots, which chunks of them, which sequences decode.

A pass has a budget of tokens; each decoding sequence takes one first, then prompts by lane and age.

Pure Python on numbers of tokens, slots and blocks, without tensors or a model. A sequence gets the blocks for its
longest possible answer together with its slot, so no running sequence ever waits for memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from vqa.jobs.lane import LANES
from workers.engine.continuous.block_manager import BlockManager
from workers.engine.continuous.sequence import Chunk, Sequence
from workers.engine.continuous.sequence_blocks import SequenceBlocks
from workers.engine.fair_share import FairShare, Reserve


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
        """Compute at most `prefill_tokens` tokens in a pass, or one more than the sequences that decode."""
        self._block_manager = block_manager
        self._blocks = SequenceBlocks(block_manager)
        self._prefill_tokens = prefill_tokens
        self._slots = slots
        self._reserve = reserve or Reserve()
        self._free_slots = list(range(slots - 1, -1, -1))
        self._waiting: dict[str, deque[Sequence]] = {lane: deque() for lane in LANES}
        self._running: list[Sequence] = []
        self._slot_share = FairShare()
        # Without a share of passes, short interactive prompts could fill every pass, and bulk prompts in slots starve.
        self._pass_share = FairShare()

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
            self._release(seq)

    def schedule(self) -> Batch | None:
        """Return the next batch, None if there is nothing to compute; its tokens count as computed from here on."""
        self._admit()
        decode = tuple(seq for seq in self._running if seq.is_decoding)
        for seq in decode:
            seq.num_generated += 1
        # at least one token: there may be as many slots as the budget has tokens
        chunks = tuple(self._chunks(max(1, self._prefill_tokens - len(decode))))
        return Batch(decode, chunks) if decode or chunks else None

    def undo(self, batch: Batch) -> None:
        """Take back the batch that `schedule` returned last, because its pass failed.

        Its prompts are the next of their lanes to get slots, and are computed anew in passes without other chunks. Call
        it before a prompt that failed by itself is finished, too: others would find its blocks, which hold nothing.
        """
        for seq in batch.decode:
            seq.num_generated -= 1
        for chunk in batch.chunks:
            self._blocks.forget(chunk)
        for chunk in reversed(batch.chunks):
            seq = chunk.sequence
            if not seq.finished:
                self._release(seq)
                seq.num_prefilled = seq.num_cached = seq.num_generated = 0
                seq.isolated = True
                self._waiting[seq.lane].appendleft(seq)

    def _release(self, seq: Sequence) -> None:
        assert seq.slot is not None
        self._running.remove(seq)
        self._free_slots.append(seq.slot)
        self._block_manager.free(seq.blocks)
        seq.slot = None

    def _chunks(self, budget: int) -> Iterator[Chunk]:
        for seq in self._prompts():
            if not budget:
                return
            if not seq.num_prefilled:
                self._blocks.skip_cached(seq)
            chunk = Chunk(seq, seq.num_prefilled, min(seq.num_prompt_tokens, seq.num_prefilled + budget))
            budget -= chunk.num_tokens
            seq.num_prefilled = chunk.stop
            # the last chunk yields the first token of the answer
            seq.num_generated = int(chunk.is_last)
            self._blocks.register(chunk)
            yield chunk

    def _prompts(self) -> list[Sequence]:
        """Return the prompts to compute in a pass, by lane and age."""
        prompts = [seq for seq in self._running if seq.is_prefilling]
        lanes = self._pass_share.order({seq.lane for seq in prompts})
        if not lanes:
            return []
        self._pass_share.served(lanes[0], lanes)
        prompts.sort(key=lambda seq: lanes.index(seq.lane))
        return prompts[:1] if prompts[0].isolated else [seq for seq in prompts if not seq.isolated]

    def _admit(self) -> None:
        while self._free_slots and (seq := self._next_waiting()) is not None and self._can_enter(seq):
            self._waiting[seq.lane].popleft()
            self._slot_share.served(seq.lane, self._waiting_lanes())
            seq.slot = self._free_slots.pop()
            self._blocks.take(seq)
            self._running.append(seq)

    def _next_waiting(self) -> Sequence | None:
        for waiting in self._waiting.values():
            while waiting and waiting[0].finished:
                waiting.popleft()
        heads = [self._waiting[lane][0] for lane in self._slot_share.order(self._waiting_lanes())]
        return next((seq for seq in heads if seq.lane != "bulk" or self._admits_bulk()), None)

    def _waiting_lanes(self) -> list[str]:
        return [lane for lane, waiting in self._waiting.items() if waiting]

    def _admits_bulk(self) -> bool:
        bulk = sum(seq.lane == "bulk" for seq in self._running)
        return self._reserve.admits_bulk(self._slots, len(self._running), bulk, self._slot_share.is_due("bulk"))

    def _can_enter(self, seq: Sequence) -> bool:
        # one that runs alone is the only one
        if self._running and (seq.alone or self._running[0].alone):
            return False
        return self._blocks.needed(seq) <= self._block_manager.num_free - self._reserved_blocks(seq)

    def _reserved_blocks(self, seq: Sequence) -> int:
        """Blocks of the reserved slots, which bulk leaves free unless its turn is due or no other sequence runs."""
        if seq.lane != "bulk" or self._slot_share.is_due("bulk") or not self._running:
            return 0
        return self._reserve.places * (self._block_manager.num_blocks // self._slots)
