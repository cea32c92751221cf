"""Log probabilities of an answer without words that the word filter does not show."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from vqa.answer import TokenLogprob
from workers.filter.word_filter import WordFilter


def filter_logprobs(words: WordFilter, logprobs: Sequence[TokenLogprob], text: str) -> tuple[TokenLogprob, ...] | None:
    """Leave out likely tokens that have a word which would be masked or refused; `text` is shown and has none.

    Return None if the tokens themselves spell one: a stop string may have cut the last token out of the text.
    """

    @cache
    def hides(spelled: str) -> bool:
        filtered = words.apply(spelled)
        return filtered.refused_at is not None or filtered.text != spelled

    spelled = b"".join(bytes(each.bytes) for each in logprobs).decode(errors="replace")
    if spelled != text and hides(spelled):
        return None
    return tuple(
        each.model_copy(update={"top_logprobs": tuple(top for top in each.top_logprobs if not hides(top.token))})
        for each in logprobs
    )
