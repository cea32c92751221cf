"""One loaded pipeline and the one thread that touches it: it answers microbatches, and a failure stays its prompt's."""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from enum import Enum, auto
from functools import partial
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList
from transformers.pipelines.image_text_to_text import ImageTextToTextPipeline

from vqa.errors import EngineError, PromptTooLong
from workers.engine.model.loading import eos_ids, load
from workers.engine.model_engine import warm_up
from workers.engine.pipeline.batcher import Batcher, Encoded
from workers.engine.pipeline.encoding import Encoder
from workers.engine.pipeline.generate_hooks import GuideProcessor, RowStoppingCriteria, sampling
from workers.engine.runtime.faults import context_is_lost, is_out_of_memory, is_poisoned
from workers.engine.runtime.heartbeat import Heartbeat
from workers.engine.settings import EngineSettings
from workers.engine.text.generation import Generation

log = logging.getLogger(__name__)

#: how long a microbatch stays smaller after the memory ran out
_SMALLER_FOR_S = 300.0


class _Fate(Enum):
    DONE = auto()
    OUT_OF_MEMORY = auto()
    FAILED = auto()


class _Row(Generation):
    """A row of a microbatch, with its tensors."""

    def __init__(self, encoded: Encoded, tokenizer: Any, eos_ids: Collection[int]) -> None:
        super().__init__(encoded.pending, encoded.inputs.prompt_tokens, tokenizer, eos_ids, encoded.inputs.guide)
        self.inputs = encoded.inputs


class Replica:
    """A loaded pipeline. Every method is for the thread that made it."""

    def __init__(
        self,
        settings: EngineSettings,
        microbatch: int,
        load: Callable[[EngineSettings], ImageTextToTextPipeline] = load,
    ) -> None:
        """Load. Raises NotReady."""
        # its methods have no types
        self.pipe: Any = load(settings)
        self._encoder = Encoder(self.pipe, settings.slot_tokens)
        self._eos_ids = eos_ids(self.pipe)
        self._microbatch = microbatch
        self._smaller = microbatch
        self._smaller_until = 0.0
        #: of its own until `serve` is given the one that is watched: warming up counts as loading
        self._heartbeat = Heartbeat(settings.hang_s)

    @property
    def limit(self) -> int:
        """Prompts that the next microbatch may have."""
        return self._smaller if time.monotonic() < self._smaller_until else self._microbatch

    def warm_up(self) -> None:
        """Answer a tiny image. Raises NotReady."""
        warm_up(self.pipe, lambda pending: self.answer([Encoded(pending, self._encoder.encode(pending.prompt))]))

    def serve(self, batcher: Batcher, heartbeat: Heartbeat) -> None:
        """Answer what waits until `waiting` is closed. What escapes is the end of this engine."""
        self._heartbeat = heartbeat
        heartbeat.idle()
        while (microbatch := batcher.take(self.limit)) is not None:
            self.answer(microbatch)
            # its tensors are not to stay while the next is waited for
            del microbatch
            heartbeat.idle()
            batcher.done()

    def answer(self, microbatch: Sequence[Encoded]) -> None:
        """Settle every prompt of the microbatch."""
        rows = [_Row(encoded, self.pipe.tokenizer, self._eos_ids) for encoded in microbatch]
        by_kind = sorted(rows, key=lambda row: row.inputs.kind)
        work = deque(list(alike) for _, alike in itertools.groupby(by_kind, key=lambda row: row.inputs.kind))
        while work:
            if rows := [row for row in work.popleft() if not row.pending.settled]:
                work.extendleft(self._generate(rows))

    def _generate(self, rows: list[_Row]) -> list[list[_Row]]:
        """Run rows together; what is returned is to be run again, in smaller microbatches."""
        fate, reason = self._attempt(rows)
        if fate is _Fate.OUT_OF_MEMORY:
            torch.cuda.empty_cache()
        unsettled = [row for row in rows if not row.pending.settled]
        if fate is _Fate.DONE or not unsettled:
            return []
        if len(rows) > 1:
            log.warning("a microbatch of %d failed (%s): run again in smaller ones", len(rows), reason)
        if fate is _Fate.OUT_OF_MEMORY:
            return self._halve(rows, unsettled)
        if len(rows) > 1:
            return [[row] for row in unsettled]
        rows[0].pending.fail(EngineError(f"the engine failed on this prompt ({reason})"))
        return []

    def _halve(self, rows: list[_Row], unsettled: list[_Row]) -> list[list[_Row]]:
        if len(rows) == 1:
            rows[0].pending.fail(
                PromptTooLong(f"{rows[0].prompt_tokens} tokens of prompt do not fit the card's free memory")
            )
            return []
        half = len(rows) // 2
        self._smaller, self._smaller_until = half, time.monotonic() + _SMALLER_FOR_S
        return [unsettled[at : at + half] for at in range(0, len(unsettled), half)]

    def _attempt(self, rows: list[_Row]) -> tuple[_Fate, str]:
        # what was raised is let go of here: its traceback would keep the microbatch's tensors
        try:
            self._run(rows)
        except Exception as error:
            # of whatever kind a model's own code raises
            if is_out_of_memory(error):
                return _Fate.OUT_OF_MEMORY, "out of memory"
            if is_poisoned(error) or context_is_lost():
                raise
            # not louder: the error's words may hold a user's
            log.debug("generate failed", exc_info=True)
            return _Fate.FAILED, type(error).__name__
        return _Fate.DONE, ""

    def _run(self, rows: list[_Row]) -> None:
        prompts = [row.pending.prompt for row in rows]
        ids = tuple(prompt.id for prompt in prompts)
        self._heartbeat.beat("prefill", ids)
        for row in rows:
            row.restart()
        how: dict[str, Any] = {
            "max_new_tokens": max(prompt.params.max_new_tokens for prompt in prompts),
            "num_beams": 1,
            # where tokens are drawn, it is done by `sampling`
            "do_sample": False,
            "stopping_criteria": StoppingCriteriaList(
                [RowStoppingCriteria(rows, partial(self._heartbeat.beat, "decode", ids))]
            ),
        }
        processors = [GuideProcessor(rows)] if any(row.guide for row in rows) else []
        processors += sampling(prompts[0].params) if prompts[0].params.temperature > 0 else []
        if processors:
            how["logits_processor"] = LogitsProcessorList(processors)
        inputs = self._encoder.collate([row.inputs for row in rows])
        # views of torchao's tensors fail in inference mode; without it the pipeline keeps no gradients either
        with torch.inference_mode(getattr(self.pipe.model, "hf_quantizer", None) is None):
            made = self.pipe.forward({**inputs, "text": ""}, generate_kwargs=how)
        if len(made["generated_sequence"]) != len(rows) or not all(row.pending.settled for row in rows):
            raise EngineError(f"{len(made['generated_sequence'])} answers came for {len(rows)} prompts")
