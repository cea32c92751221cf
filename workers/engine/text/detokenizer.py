"""Decodes tokens to text as they are generated, and finds stop strings. Independent of the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

#: what decoders write for bytes that are not, or not yet, a character
_REPLACEMENT = "\ufffd"

#: a token that is one byte, in vocabularies that fall back to bytes (SentencePiece's)
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")

#: tokens: a tail longer than the first is cut to the second. A token has at least one byte and a character at most
#: four, so the text that follows decodes the same after the shorter tail.
_LONG, _SHORT = 24, 8


class Detokenizer:
    """The text of tokens that arrive one by one; each call decodes only a short tail of them.

    The text equals decoding all tokens at once if the spelling of a token depends on its neighbours alone. The end of
    the text is held back while its last bytes may become another character (lossy UTF-8 shows one replacement
    character for them; a run of byte tokens is decoded as a whole), or while it may be the start of a stop string.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        #: the most characters to hold back: a stop string without its last character
        self._max_held = max(map(len, stops), default=1) - 1
        self._pieces: list[str] = []
        self._tail: list[int] = []
        #: characters of the tail's text that were returned
        self._returned = 0
        #: whether a stop string was found
        self.stopped = False

    def add(self, token: int) -> str:
        """Append a token; return the text that has become final. Do not call again once `stopped`."""
        name = self._tokenizer.convert_ids_to_tokens(token)
        if name is None:
            # a model's output layer may have more rows than the vocabulary has tokens
            return ""
        self._tail.append(token)
        in_bytes = _BYTE.fullmatch(name) is not None
        if in_bytes and not self._stops:
            return ""
        text = decode(self._tokenizer, self._tail)
        rest = text[self._returned :]
        self.stopped = any(stop in rest for stop in self._stops)
        if in_bytes or self.stopped:
            return ""
        final = rest.removesuffix(_REPLACEMENT)
        final = final[: len(final) - self._held_back(final)]
        self._returned += len(final)
        self._pieces.append(final)
        self._cut(text)
        return final

    def finish(self) -> str:
        """Return the text that was held back, up to the first stop string."""
        rest = decode(self._tokenizer, self._tail)[self._returned :]
        found = [at for stop in self._stops if (at := rest.find(stop)) >= 0]
        rest = rest[: min(found)] if found else rest
        self._pieces.append(rest)
        return rest

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def _held_back(self, text: str) -> int:
        """Count the characters at the end that are the start of a stop string."""
        for at in range(max(0, len(text) - self._max_held), len(text)):
            if any(stop.startswith(text[at:]) for stop in self._stops):
                return len(text) - at
        return 0

    def _cut(self, text: str) -> None:
        if len(self._tail) <= _LONG:
            return
        shorter = self._tail[-_SHORT:]
        end, held_back = decode(self._tokenizer, shorter), len(text) - self._returned
        # otherwise the cut would split a character or lose text that was not returned yet: cut at a later token
        if text.endswith(end) and len(end) > held_back:
            self._tail, self._returned = shorter, len(end) - held_back


def decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Decode the tokens without touching spaces."""
    return str(tokenizer.decode(tokens, clean_up_tokenization_spaces=False))
