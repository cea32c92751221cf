"""The events that webhooks carry: OpenAI's of batches, and our own of single jobs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from producer.prediction import Prediction
from vqa.answer import Answer
from vqa.ledger.batch_state import BatchState
from vqa.results import Outcome

JOB_ANSWERED, JOB_FAILED = "vqa.job.answered", "vqa.job.failed"
BATCH_LATE = "vqa.batch.late"


def batch_event(event: str, state: BatchState) -> tuple[str, str]:
    """Return type and body of the event that tells a batch's end."""
    ended = state.times.get(state.status, 0) / 1000 or time.time()
    type = f"batch.{state.status}"
    return type, _body(event, type, ended, {"id": state.id})


def late_event(event: str, id: str, prediction: Prediction) -> tuple[str, str]:
    """Return type and body of the event that a batch will expire before it ends. Times are in seconds since 1970."""
    times = {"ends_at": prediction.end, "earliest_at": prediction.earliest, "latest_at": prediction.latest}
    seconds = {name: None if ms is None else ms // 1000 for name, ms in times.items()}
    data = {"id": id, **seconds, "expires_at": prediction.expires // 1000}
    return BATCH_LATE, _body(event, BATCH_LATE, time.time(), data)


def job_event(event: str, id: str, outcome: Outcome) -> tuple[str, str]:
    """Return type and body of the event that tells a job's end; what was answered is not in it."""
    if isinstance(outcome, Answer):
        return JOB_ANSWERED, _body(event, JOB_ANSWERED, time.time(), {"id": id})
    return JOB_FAILED, _body(event, JOB_FAILED, time.time(), {"id": id, "code": outcome.code()})


def _body(event: str, type: str, created: float, data: Mapping[str, str | int | None]) -> str:
    fields = {"id": event, "object": "event", "type": type, "created_at": int(created), "data": data}
    return json.dumps(fields, separators=(",", ":"))
