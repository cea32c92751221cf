"""Answers microbatches with one loaded pipeline, in one thread; an error fails only the prompt that causes it."""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from enum import Enum, auto
from functools import partial
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteriaList
from transformers.pipelines.image_text_to_text import ImageTextToTextPipeline

from vqa.errors import EngineError, PromptTooLong
from workers.engine.model.loading import eos_ids, load
from workers.engine.model_engine import warm_up
from workers.engine.pipeline.batcher import Batcher, Encoded
from workers.engine.pipeline.encoding import Encoder
from workers.engine.pipeline.generate_hooks import (
    GuideProcessor,
    LogprobProcessor,
    PenaltyProcessor,
    RowStoppingCriteria,
    sampling,
)
from workers.engine.runtime.faults import context_is_lost, is_out_of_memory, is_poisoned
from workers.engine.runtime.heartbeat import Heartbeat
from workers.engine.settings import EngineSettings
from workers.engine.text.generation import Generation
from workers.engine.text.guide import max_tokens
from workers.engine.text.token_bytes import TokenBytes

log = logging.getLogger(__name__)

#: seconds for which microbatches stay smaller after the card ran out of memory
_SMALLER_FOR_S = 300.0


class _Result(Enum):
    DONE = auto()
    OUT_OF_MEMORY = auto()
    FAILED = auto()


class _Row(Generation):
    """A generation in a microbatch, with its input tensors."""

    def __init__(self, encoded: Encoded, tokenizer: Any, eos_ids: Collection[int]) -> None:
        inputs = encoded.inputs
        about = (inputs.prompt_tokens, tokenizer, eos_ids, inputs.guide, inputs.image_sizes)
        super().__init__(encoded.pending, *about, image_tokens=inputs.image_tokens)
        self.inputs = inputs


class Replica:
    """A loaded pipeline. All methods must be called from the thread that created it."""

    def __init__(
        self,
        settings: EngineSettings,
        microbatch: int,
        load: Callable[[EngineSettings], ImageTextToTextPipeline] = load,
    ) -> None:
        """Load the model. Raises NotReady."""
        # Any: its methods are not typed
        self.pipe: Any = load(settings)
        self._encoder = Encoder(self.pipe, settings.slot_tokens)
        self._eos_ids = eos_ids(self.pipe)
        self._token_bytes = TokenBytes(self.pipe.tokenizer)
        self._repetition_penalty = float(self.pipe.model.generation_config.repetition_penalty or 1.0)
        self._microbatch = microbatch
        self._smaller = microbatch
        self._smaller_until = 0.0
        #: not watched until `serve` replaces it: warming up counts as loading
        self._heartbeat = Heartbeat(settings.hang_s)

    @property
    def limit(self) -> int:
        """The size limit of the next microbatch."""
        return self._smaller if time.monotonic() < self._smaller_until else self._microbatch

    def warm_up(self) -> None:
        """Answer a question about a tiny image. Raises NotReady."""
        warm_up(self.pipe, lambda pending: self.answer([Encoded(pending, self._encoder.encode(pending.prompt))]))

    def serve(self, batcher: Batcher, heartbeat: Heartbeat) -> None:
        """Answer microbatches until the batcher is closed. An exception that is raised ends the engine."""
        self._heartbeat = heartbeat
        heartbeat.idle()
        while (microbatch := batcher.take(self.limit)) is not None:
            self.answer(microbatch)
            # free its tensors before waiting for the next one
            del microbatch
            heartbeat.idle()
            batcher.done()

    def answer(self, microbatch: Sequence[Encoded]) -> None:
        """Answer or fail every prompt of the microbatch."""
        rows = [_Row(encoded, self.pipe.tokenizer, self._eos_ids) for encoded in microbatch]
        by_kind = sorted(rows, key=lambda row: row.inputs.kind)
        work = deque(list(alike) for _, alike in itertools.groupby(by_kind, key=lambda row: row.inputs.kind))
        while work:
            if rows := [row for row in work.popleft() if not row.pending.settled]:
                work.extendleft(self._generate(rows))

    def _generate(self, rows: list[_Row]) -> list[list[_Row]]:
        """Run rows together; return those to run again, in smaller microbatches."""
        result, reason = self._attempt(rows)
        if result is _Result.OUT_OF_MEMORY:
            torch.cuda.empty_cache()
        unsettled = [row for row in rows if not row.pending.settled]
        if result is _Result.DONE or not unsettled:
            return []
        if len(rows) > 1:
            log.warning("a microbatch of %d failed (%s), running its prompts in smaller ones", len(rows), reason)
        if result is _Result.OUT_OF_MEMORY:
            return self._halve(rows, unsettled)
        if len(rows) > 1:
            return [[row] for row in unsettled]
        rows[0].pending.fail(EngineError(f"the engine failed on this prompt ({reason})"))
        return []

    def _halve(self, rows: list[_Row], unsettled: list[_Row]) -> list[list[_Row]]:
        if len(rows) == 1:
            rows[0].pending.fail(
                PromptTooLong(f"{rows[0].prompt_tokens} prompt tokens do not fit the card's free memory")
            )
            return []
        half = len(rows) // 2
        self._smaller, self._smaller_until = half, time.monotonic() + _SMALLER_FOR_S
        return [unsettled[at : at + half] for at in range(0, len(unsettled), half)]

    def _attempt(self, rows: list[_Row]) -> tuple[_Result, str]:
        # the error must not leave this function: its traceback would keep the microbatch's tensors
        try:
            self._run(rows)
        except Exception as error:
            # a model's own code may raise anything
            if is_out_of_memory(error):
                return _Result.OUT_OF_MEMORY, "out of memory"
            if is_poisoned(error) or context_is_lost():
                raise
            # at debug level, because the message may contain a user's text
            log.debug("generate failed", exc_info=True)
            return _Result.FAILED, type(error).__name__
        return _Result.DONE, ""

    def _run(self, rows: list[_Row]) -> None:
        prompts = [row.pending.prompt for row in rows]
        ids = tuple(prompt.id for prompt in prompts)
        self._heartbeat.beat("prefill", ids)
        began = time.monotonic()
        for row in rows:
            row.restart()
            # not when its microbatch was taken: prompts of other kinds, and runs that failed, come before
            row.began = began
        logprobs = LogprobProcessor(rows, self._token_bytes)
        stopping = RowStoppingCriteria(rows, partial(self._heartbeat.beat, "decode", ids), logprobs)
        how: dict[str, Any] = {
            "max_new_tokens": max(max_tokens(row.pending.prompt.params.max_new_tokens, row.guide) for row in rows),
            "num_beams": 1,
            # `sampling` does it instead, and PenaltyProcessor
            "do_sample": False,
            "repetition_penalty": 1.0,
            "stopping_criteria": StoppingCriteriaList([stopping]),
            "logits_processor": LogitsProcessorList(self._processors(rows, logprobs)),
        }
        inputs = self._encoder.collate([row.inputs for row in rows])
        # views of torchao's tensors fail in inference mode; the pipeline disables gradients anyway
        with torch.inference_mode(getattr(self.pipe.model, "hf_quantizer", None) is None):
            made = self.pipe.forward({**inputs, "text": ""}, generate_kwargs=how)
        if len(made["generated_sequence"]) != len(rows) or not all(row.pending.settled for row in rows):
            raise EngineError(f"got {len(made['generated_sequence'])} answers for {len(rows)} prompts")

    def _processors(self, rows: list[_Row], logprobs: LogprobProcessor) -> Iterator[LogitsProcessor]:
        """Yield the processors of a microbatch, in the order of the continuous engine's sampler."""
        yield logprobs
        if penalties := PenaltyProcessor(rows, self._repetition_penalty):
            yield penalties
        if any(row.guide for row in rows):
            yield GuideProcessor(rows)
        # rows of a microbatch are sampled alike
        params = rows[0].pending.prompt.params
        if params.temperature > 0:
            yield from sampling(params)
