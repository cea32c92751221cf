"""Puts spans around a worker's attempts."""

from __future__ import annotations

from dataclasses import replace

from vqa.tracing.provider import OwnTracing
from workers.jobs.attempt import Attempts
from workers.tracing.attempts import AttemptSpans
from workers.tracing.engine import TracedEngine


def traced(attempts: Attempts, tracing: OwnTracing) -> Attempts:
    """Return the same attempts, traced."""
    answering = attempts.answering
    spans = AttemptSpans(tracing, answering.worker, answering.engine.model)
    return replace(
        attempts,
        answering=replace(answering, engine=TracedEngine(answering.engine, spans.stages)),
        middleware=[spans, *attempts.middleware],
        around=[*attempts.around, spans.around],
        on_end=[*attempts.on_end, spans.end_all, lambda _: tracing.stop()],
    )
