"""Predictions in words, for people. Times of day are UTC, as in all that `vqa` prints."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from producer.prediction.prediction import Prediction, Unknown

_UNKNOWN: Mapping[Unknown, str] = {
    "no_worker": "no worker is up",
    "no_answers": "no job of its queue ended in the last minutes",
    "rows_unknown": "rows are still being read",
}

#: seconds: nearer ends are told by the second
_NEAR_S = 120


def ends(prediction: Prediction) -> str:
    """Say when the batch ends, between which times, and whether that is too late; or why it is not known."""
    if prediction.end is None:
        why = _UNKNOWN[prediction.unknown] if prediction.unknown else "too little is known"
        return f"end unknown: {why}"
    late = f", after its limit at {_clock(prediction, prediction.expires)} UTC" if prediction.in_time is False else ""
    return f"{_about(prediction, prediction.end)}{late}"


def lateness(prediction: Prediction) -> str:
    """Say that the batch ends after it expires, when, and what can be done. Its `in_time` is False."""
    end = prediction.end or 0
    needed_s = ((prediction.latest or end) - prediction.made) / 1000
    limit = f"{_clock(prediction, prediction.expires)} UTC (in {span((prediction.expires - prediction.made) / 1000)})"
    sooner = "; if workers were partly idle in these minutes, it ends sooner" if prediction.earliest is None else ""
    return (
        f"at the rate of the last minutes the batch {_about(prediction, end)}, but rows that have no answer at {limit} "
        f"are given up; start more workers, or allow it {span(needed_s)}{sooner}"
    )


def _about(prediction: Prediction, end: int) -> str:
    inside = ", ".join(filter(None, [f"in {span((end - prediction.made) / 1000)}", _bounds(prediction)]))
    return f"ends about {_clock(prediction, end)} UTC ({inside})"


def _bounds(prediction: Prediction) -> str:
    first = None if prediction.earliest is None else _clock(prediction, prediction.earliest)
    last = None if prediction.latest is None else _clock(prediction, prediction.latest)
    if first and last:
        return f"{first} to {last}" if first != last else ""
    if first:
        return f"not before {first}"
    return f"by {last}" if last else ""


def _clock(prediction: Prediction, ms: int) -> str:
    try:
        then, now = (datetime.fromtimestamp(each / 1000, UTC) for each in (ms, prediction.made))
    except (ValueError, OverflowError, OSError):
        return "a time after the year 9999"
    near = prediction.end is not None and prediction.end - prediction.made < _NEAR_S * 1000
    time = f"{then:%H:%M:%S}" if near else f"{then:%H:%M}"
    return time if then.date() == now.date() else f"{then:%Y-%m-%d} {time}"


def span(seconds: float) -> str:
    """Return a duration as precise as a prediction can be."""
    if seconds < _NEAR_S:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{round(hours / 24):,} days"
