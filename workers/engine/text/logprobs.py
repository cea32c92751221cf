"""Which of the tokens of an answer are part of its text."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from workers.engine.base import TokenLogprob

_decoder = codecs.getincrementaldecoder("utf-8")


def text_logprobs(generated: Sequence[TokenLogprob], text: str) -> tuple[TokenLogprob, ...]:
    """Return those of `generated`, in order, that have a part in `text`.

    The text may have been cut before a stop string, which may begin within a token. All are returned if it is not found
    in what was generated, because decoding changed it.
    """
    if not text:
        return ()
    # bytes that are no character become U+FFFD, as in the text
    decoder, whole = _decoder(errors="replace"), ""
    spans = []
    for each in generated:
        begin = len(whole)
        whole += decoder.decode(each.text)
        # a character that this token begins belongs to it, too
        spans.append((begin, len(whole) + bool(decoder.getstate()[0])))
    start = (whole + decoder.decode(b"", final=True)).find(text)
    if start < 0:
        return tuple(generated)
    stop = start + len(text)
    return tuple(each for each, (begin, end) in zip(generated, spans, strict=True) if begin < stop and end > start)
