"""The stages of an attempt: images are fetched and decoded, then the engine prefills and decodes."""

from __future__ import annotations

from dataclasses import dataclass

from vqa.answer import Answer
from vqa.results import Outcome
from vqa.tracing import attributes as names
from vqa.tracing.otel import Tracing, traceparent
from vqa.tracing.traceparent import Traceparent
from workers.engine.base import Completion


@dataclass(slots=True, eq=False)
class Stages:
    """When an attempt's stages began and ended, in ns since the epoch; 0 for one that it has not reached.

    Of an attempt whose images are decoded again, smaller, the last prompt counts.
    """

    submitted_ns: int = 0
    settled_ns: int = 0
    completion: Completion | None = None


def record_stages(
    tracing: Tracing,
    attempt: Traceparent,
    stages: Stages,
    model: str,
    outcome: Outcome | None,
    began_ns: int,
    ended_ns: int,
) -> None:
    """Record the stages of an attempt with this outcome as children of its span."""
    answer = outcome if isinstance(outcome, Answer) else None
    if answer is not None and answer.reused:
        return
    tracing.record("media", "internal", attempt, began_ns, stages.submitted_ns or ended_ns)
    if not stages.submitted_ns:
        return
    told = names.chat(model) | (names.answered(answer) if answer else {})
    begin_ns, end_ns = stages.submitted_ns, stages.settled_ns or ended_ns
    # the model is in this process, or in one of its own that serves nobody else
    chat = tracing.start(f"chat {model}", "internal", attempt, at_ns=begin_ns, attributes=told)
    if stages.completion is not None:
        _record_parts(tracing, traceparent(chat.get_span_context()), stages.completion, begin_ns, end_ns)
    failed = isinstance(outcome, Exception) and stages.completion is None
    tracing.end(chat, end_ns, names.code_of(outcome) if isinstance(outcome, Exception) and failed else None)


def _record_parts(tracing: Tracing, chat: Traceparent, made: Completion, begin_ns: int, end_ns: int) -> None:
    """Record what the engine says of its time; it says nothing of a part that takes no time."""
    at_ns = begin_ns
    for name, seconds in (("slot wait", made.slot_wait_s), ("prefill", made.prefill_s), ("decode", made.decode_s)):
        if seconds > 0:
            until_ns = min(end_ns, at_ns + int(seconds * 1_000_000_000))
            tracing.record(name, "internal", chat, at_ns, until_ns)
            at_ns = until_ns
