"""What a batch's object says of its tokens."""

from __future__ import annotations

from producer.gateway.batches.view import _usage
from vqa.ledger.batch_state import BatchState


def test_cached_tokens_and_those_of_thoughts_are_told() -> None:
    counts = {"prompt_tokens": 30, "completion_tokens": 12, "cached_tokens": 20, "reasoning_tokens": 5}
    state = BatchState("b", "completed", created=0, lane="bulk", **counts)
    assert _usage(state) == {
        "input_tokens": 30,
        "input_tokens_details": {"cached_tokens": 20},
        "output_tokens": 12,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 42,
    }
