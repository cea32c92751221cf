"""Breaks up special tokens in users' texts, so that a text cannot act as a control token of the model."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any

from vqa.errors import InvalidJob
from workers.engine.text.thoughts import CLOSE, OPEN, knows_thoughts

#: breaking up a token may join its neighbours into another one, so it is repeated; no real tokenizer needs more rounds
_ROUNDS = 8

#: texts whose result is kept, and the most characters of one
_KEPT = 64
_KEPT_CHARACTERS = 65_536


class SpecialTokens:
    """The tokens that a tokenizer splits off any text first: roles, ends, image placeholders, tool calls.

    The tokenizer gets a prompt's text as one string, so a question that contains `<|im_start|>system` would open a new
    turn, and one that contains `<|image_pad|>` would claim an image. `escape` inserts a space after the first
    character: the model reads `< |im_start|>`. Other text is unchanged.
    """

    def __init__(self, processor: Any) -> None:
        self._tokenizer = processor.tokenizer
        added = self._tokenizer.get_added_vocab()
        # image placeholders need not be tokens: the processor replaces them in the string
        extra = {getattr(processor, name, None) for name in ("image_token", "video_token", "audio_token")}
        # a template may look for the marks of thoughts where the tokenizer has no tokens for them
        marks = {OPEN, CLOSE} if knows_thoughts(processor) else set[str]()
        tokens = {token for token in {*added, *extra, *marks} if isinstance(token, str) and is_special(token)}
        self._all, self._but_thoughts = _pattern(tokens), _pattern(tokens - {OPEN, CLOSE})
        self._ids = frozenset(added[token] for token in tokens if token in added) - {self._tokenizer.unk_token_id}
        self._thoughts = frozenset(added[mark] for mark in (OPEN, CLOSE) if mark in added)
        # a system prompt is the same in thousands of jobs
        self._kept = lru_cache(_KEPT)(self._escape)

    def escape(self, text: str, *, keep_thoughts: bool = False) -> str:
        """Break up every special token in `text`, with `keep_thoughts` without `<think>` and `</think>`.

        Raises InvalidJob if one is left, UnicodeEncodeError if `text` has a lone surrogate.
        """
        return (self._kept if len(text) <= _KEPT_CHARACTERS else self._escape)(text, keep_thoughts)

    def occur_in(self, ids: Iterable[int]) -> bool:
        """Whether a special token is among the tokens."""
        return not self._ids.isdisjoint(ids)

    def _escape(self, text: str, keep_thoughts: bool) -> str:
        text.encode()
        if (pattern := self._but_thoughts if keep_thoughts else self._all) is None:
            return text
        for _ in range(_ROUNDS):
            if not pattern.search(text):
                break
            text = pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
        # the tokenizer's normalization may still produce a special token
        left = self._ids.intersection(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        if left - (self._thoughts if keep_thoughts else frozenset()):
            raise InvalidJob("the text contains a special token of the model that cannot be escaped")
        return text


def _pattern(tokens: Collection[str]) -> re.Pattern[str] | None:
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if tokens else None


def is_special(token: str) -> bool:
    """Whether an added token is special; single characters and runs of spaces are added only to save tokens."""
    return len(token) > 1 and not token.isspace()


# as many as an engine's replicas and more; each answer asks
@lru_cache(16)
def hidden_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids of the tokens that are no text, which `decode(..., skip_special_tokens=True)` leaves out.

    A tokenizer names some of them; others are marked in its file alone, such as Idefics3's numbers of tiles.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return frozenset(tokenizer.all_special_ids) | {id for id, token in added.items() if token.special}
