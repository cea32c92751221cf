"""Which of the tokens of an answer are part of its text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from workers.engine.base import TokenLogprob


def text_logprobs(generated: Sequence[TokenLogprob], text: str) -> tuple[TokenLogprob, ...]:
    """Return those of `generated`, in order, that have a part in `text`.

    The text may have been cut before a stop string, which may begin within a token. All are returned if it is not found
    in what was generated, because decoding changed it.
    """
    if not text:
        return ()
    wanted = text.encode()
    start = b"".join(each.text for each in generated).find(wanted)
    if start < 0:
        return tuple(generated)
    stops = accumulate(len(each.text) for each in generated)
    stop = start + len(wanted)
    return tuple(
        each for each, end in zip(generated, stops, strict=True) if end > start and end - len(each.text) < stop
    )
