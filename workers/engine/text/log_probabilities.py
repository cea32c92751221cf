"""Log probabilities of chosen tokens and of the likeliest beside them, computed where the logits are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from workers.engine.base import TokenLogprob
from workers.engine.text.token_bytes import TokenBytes, token_logprob


def log_probabilities(logits: Tensor, tokens: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Return the logarithms of the probabilities (n, 1 + top) of `tokens` (n) and the likeliest, and their ids.

    `logits` are (n, vocabulary); the likeliest tokens are in order.
    """
    logprobs, tokens = logits.float().log_softmax(-1), tokens[:, None]
    chosen = logprobs.gather(-1, tokens)
    if not top:
        return chosen, tokens
    values, ids = logprobs.topk(min(top, logits.shape[-1]))
    return torch.cat((chosen, values), -1), torch.cat((tokens, ids), -1)


def read_logprobs(rows: Mapping[int, int], copied: Sequence[Tensor], names: TokenBytes) -> dict[int, TokenLogprob]:
    """Return by row what `log_probabilities` gave, on the host; `rows` says how many of the likeliest each keeps."""
    if not rows:
        return {}
    values, ids = copied
    each = zip(rows.items(), values.tolist(), ids.tolist(), strict=True)
    return {row: token_logprob(value[: 1 + top], id[: 1 + top], names) for (row, top), value, id in each}
