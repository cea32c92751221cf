"""A batch as OpenAI's API shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, get_args

from producer.gateway.batches.batch_files import has_file
from producer.gateway.batches.output_files import FileKind, output_file_id
from producer.gateway.batches.record import SavedBatch
from producer.prediction import Prediction
from vqa.ledger.batch_state import BatchState

#: OpenAI's names of times, in seconds since 1970; null until the batch is there
_TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


def batch_object(saved: SavedBatch, state: BatchState, prediction: Prediction | None) -> dict[str, Any]:
    """Return OpenAI's batch object, with our own fields under `vqa`."""
    record, progress = saved.record, saved.progress
    total = progress.total or 0
    completed = min(state.completed, total)
    files = {
        kind: output_file_id(saved.id, kind) if has_file(saved, state, kind) else None for kind in get_args(FileKind)
    }
    return {
        "id": saved.id,
        "object": "batch",
        "endpoint": record.endpoint,
        "model": progress.model,
        "errors": _errors(saved),
        "input_file_id": record.input_file_id,
        "completion_window": record.completion_window,
        "status": state.status,
        "output_file_id": files["output"],
        "error_file_id": files["errors"],
        "created_at": record.created_at,
        "expires_at": state.expires // 1000,
        **_times(state),
        "request_counts": {"total": total, "completed": completed, "failed": min(state.failed, total - completed)},
        "usage": _usage(state),
        "metadata": record.metadata,
        "vqa": {
            "lane": record.lane,
            "workers": dict(state.workers),
            "failures": dict(state.codes),
            "prediction": prediction and _prediction(prediction),
        },
    }


def _prediction(prediction: Prediction) -> dict[str, Any]:
    times = {"ends_at": prediction.end, "earliest_at": prediction.earliest, "latest_at": prediction.latest}
    return {
        **{name: None if ms is None else ms // 1000 for name, ms in times.items()},
        "in_time": prediction.in_time,
        "unknown": prediction.unknown,
    }


def _times(state: BatchState) -> Mapping[str, int | None]:
    times = {f"{name}_at": state.times[name] // 1000 if name in state.times else None for name in _TIMES}
    # there is nothing to finalize: files are generated when they are read
    times["finalizing_at"] = times["finalizing_at"] or times["completed_at"]
    return times


def _errors(saved: SavedBatch) -> dict[str, Any] | None:
    return {"object": "list", "data": [asdict(each) for each in saved.errors]} if saved.errors else None


def _usage(state: BatchState) -> dict[str, Any]:
    return {
        "input_tokens": state.prompt_tokens,
        "input_tokens_details": {"cached_tokens": state.cached_tokens},
        "output_tokens": state.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": state.reasoning_tokens},
        "total_tokens": state.prompt_tokens + state.completion_tokens,
    }
