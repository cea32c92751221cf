"""Which tokens end a text."""

from __future__ import annotations

from typing import Any


def end_ids(pipe: Any) -> frozenset[int]:
    """By the model's generation config and by its tokenizer."""
    config, tokenizer = pipe.model.generation_config, pipe.tokenizer
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    return frozenset(id for id in (*ends, tokenizer.eos_token_id) if id is not None)
