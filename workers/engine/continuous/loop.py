"""The engine's loop: schedules batches, launches them, and passes the tokens on to their prompts.

Host and device overlap: the next batch is launched before the tokens of the previous one are read. So a sequence that
ends with a stop token, and not at its length, is computed for one step more, whose token is discarded. A batch is
sampled after the previous tokens have been read: the masks of guided rows depend on them.
"""

from __future__ import annotations

import logging
import time
from collections import abc, deque
from dataclasses import dataclass
from typing import Any

from vqa.errors import EngineError, PromptTooLong
from workers.engine.base import Phase, TokenLogprob
from workers.engine.continuous.model_runner import ModelRunner
from workers.engine.continuous.requests import Intake, Request
from workers.engine.continuous.sampler import Logits, Sampler
from workers.engine.continuous.scheduler import Batch, Scheduler
from workers.engine.continuous.sequence import Sequence
from workers.engine.continuous.stats import StatsCounter
from workers.engine.continuous.transfer import AsyncTokens
from workers.engine.runtime.faults import context_is_lost, is_poisoned
from workers.engine.runtime.heartbeat import Heartbeat
from workers.engine.runtime.pending import Pending
from workers.engine.text.generation import Generation
from workers.engine.text.log_probabilities import read_logprobs
from workers.engine.text.token_bytes import TokenBytes

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class InFlight:
    """A launched batch and the tokens on their way to the host, one for each of its sequences."""

    batch: Batch
    tokens: AsyncTokens
    #: `Sampler.logprobs` of the batch
    logprobs: abc.Mapping[int, int]


class Loop:
    """Answers prompts in the engine's thread."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: ModelRunner,
        tokenizer: Any,
        eos_ids: abc.Collection[int],
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._tokenizer = tokenizer
        self._token_bytes = TokenBytes(tokenizer)
        self._eos_ids = eos_ids
        #: of waiting and running sequences
        self._generations: dict[Sequence, Generation] = {}
        #: those of them that have ended, appended by the thread that ends them
        self._ended: deque[Sequence] = deque()
        self.counter = StatsCounter()

    def serve(self, intake: Intake, heartbeat: Heartbeat) -> None:
        """Answer prompts until `intake` is closed. An exception that escapes ends the engine."""
        in_flight: list[InFlight] = []
        while (new := intake.take(wait=not self._generations)) is not None:
            in_flight = self.step(new, in_flight, heartbeat)
            if not self._generations:
                heartbeat.idle()

    def step(
        self, new: abc.Iterable[tuple[Pending, Request]], previous: abc.Iterable[InFlight], heartbeat: Heartbeat
    ) -> list[InFlight]:
        """Add new prompts, launch the next batch and process the tokens of the previous one."""
        for pending, request in new:
            self._add(pending, request)
        self._remove_finished()
        batch = self._scheduler.schedule()
        if batch is None:
            self._collect(previous, heartbeat)
            return []
        heartbeat.beat(_phase(batch), self._running_ids())
        logits = self._forward(batch)
        self._collect(previous, heartbeat)
        if logits is None:
            return []
        heartbeat.beat(_phase(batch), heartbeat.ids)
        return [self._sample(batch, logits)]

    def _running_ids(self) -> tuple[str, ...]:
        return tuple(self._generations[seq].pending.prompt.id for seq in self._scheduler.running)

    def _add(self, pending: Pending, request: Request) -> None:
        max_tokens, lane, alone = request.max_tokens, pending.prompt.lane, pending.prompt.alone
        seq = Sequence(request.num_tokens, max_tokens, lane, alone, request, request.block_hashes)
        if not self._scheduler.fits(seq):
            error = PromptTooLong(
                f"{seq.max_len} tokens are more than the card has room for, which are {self._scheduler.max_len}"
            )
            error.limit = self._scheduler.max_len
            error.excess = seq.max_len - error.limit
            pending.fail(error)
            return
        if not self._generations:
            self.counter.begin()
        # they have the model's size already
        sizes = tuple((image.width, image.height) for image in pending.prompt.images)
        self._generations[seq] = Generation(
            pending,
            request.num_tokens,
            self._tokenizer,
            self._eos_ids,
            request.guide,
            sizes,
        )
        self._scheduler.add(seq)
        # Called at once if it has ended already. Futures outlive the engine, so they must not hold the loop.
        ended = self._ended
        pending.future.add_done_callback(lambda _: ended.append(seq))

    def _remove_finished(self) -> None:
        """Remove the sequences that have ended: by a token, a failure, a deadline or a cancellation."""
        while self._ended:
            seq = self._ended.popleft()
            self._scheduler.finish(seq)
            # the scheduler may keep the sequence for a while, its pixels are not needed
            seq.request = None
            del self._generations[seq]

    def _forward(self, batch: Batch) -> Logits | None:
        """Launch the batch; if that fails, return None and take it back, its prompts to be run one by one."""
        try:
            logits = self._runner.forward(batch)
        except Exception as error:
            # only a prompt can be at fault: decoding repeats what has succeeded before
            if is_poisoned(error) or context_is_lost() or not batch.chunks:
                raise
            # at debug level: the error's text may hold a user's words
            log.debug("a pass failed", exc_info=True)
            self._take_back(batch, type(error).__name__)
            return None
        for chunk in batch.chunks:
            generation = self._generations[chunk.sequence]
            if not generation.has_slot:
                generation.has_slot, generation.began = True, time.monotonic()
            generation.cached_tokens = chunk.sequence.num_cached
            if chunk.is_last:
                chunk.sequence.request = None
        return logits

    def _take_back(self, batch: Batch, reason: str) -> None:
        """Undo a batch that failed. The prompt at fault is the one that fails when no other is computed with it."""
        self._scheduler.undo(batch)
        if len(batch.chunks) == 1:
            pending = self._generations[batch.chunks[0].sequence].pending
            pending.fail(EngineError(f"the engine failed on this prompt ({reason})"))
        else:
            log.warning("a pass with %d prompts failed (%s), running them one by one", len(batch.chunks), reason)

    def _sample(self, batch: Batch, logits: Logits) -> InFlight:
        rows = enumerate(self._generations[seq] for seq in batch.sequences)
        # most rows of most batches take the likeliest token, and cost nothing here
        others = {row: each for row, each in rows if not each.takes_likeliest}
        params = {row: each.pending.prompt.params for row, each in others.items()}
        # a guide that is free allows everything
        open_rows = {row: each.guide for row, each in others.items() if not each.pending.settled}
        guides = {row: guide for row, guide in open_rows.items() if guide and not guide.free}
        sampler = Sampler.from_params(params, guides)
        return InFlight(batch, self._runner.sample(logits, sampler), sampler.logprobs)

    def _collect(self, launched: abc.Iterable[InFlight], heartbeat: Heartbeat) -> None:
        for in_flight in launched:
            # reading waits for the device, which may hang
            heartbeat.beat(_phase(in_flight.batch), heartbeat.ids)
            tokens = in_flight.tokens.read()
            self.counter.count(in_flight.batch, in_flight.tokens)
            logprobs = read_logprobs(in_flight.logprobs, in_flight.tokens.others, self._token_bytes)
            for row, (seq, token) in enumerate(zip(in_flight.batch.sequences, tokens, strict=True)):
                # a sequence without a generation was removed meanwhile
                if generation := self._generations.get(seq):
                    _process_output(generation, token, logprobs.get(row))


def _phase(batch: Batch) -> Phase:
    return "prefill" if batch.chunks else "decode"


def _process_output(generation: Generation, token: int, logprob: TokenLogprob | None) -> None:
    try:
        generation.add(token, logprob)
    except Exception as error:
        # a tokenizer that fails on the tokens of one prompt must not end the engine
        log.debug("processing a token failed", exc_info=True)
        generation.pending.fail(EngineError(f"the engine failed on this prompt ({type(error).__name__})"))
