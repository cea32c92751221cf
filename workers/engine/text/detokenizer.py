"""From tokens to text while they come: what of it is sure, and whether a stop string is in it. Knows no model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

#: what decoders show for bytes that are no character, or not yet
_HALF = "\ufffd"

#: a token that is one byte, in vocabularies that fall back to bytes (SentencePiece's)
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")

#: tokens: past the first the tail is cut to the second. A token is a byte at least, and a character has no more than
#: four: what may follow reads the same after the shorter tail.
_LONG, _SHORT = 24, 8


class Detokenizer:
    """The text of tokens that come one by one, of which only a short tail is decoded at each.

    Equal to decoding all tokens at once wherever a token's spelling depends on its neighbours alone. A text's end is
    not sure while its last bytes may become another character (lossy UTF-8 shows at most one sign for them; where
    tokens are bytes, a run of them is decoded as a whole), or while it may be the beginning of a stop string.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        #: the most characters that are a stop string but for its last one
        self._most_held = max(map(len, stops), default=1) - 1
        self._pieces: list[str] = []
        self._tail: list[int] = []
        #: characters of the tail's text that were given out
        self._given = 0
        #: whether a stop string has come
        self.stopped = False

    def add(self, token: int) -> str:
        """Take the next token; what has become sure of the text by it. Nothing more once `stopped`."""
        name = self._tokenizer.convert_ids_to_tokens(token)
        if name is None:
            # past the vocabulary: a model's matrix may have more rows than there are tokens
            return ""
        self._tail.append(token)
        in_bytes = _BYTE.fullmatch(name) is not None
        if in_bytes and not self._stops:
            return ""
        text = decode(self._tokenizer, self._tail)
        rest = text[self._given :]
        self.stopped = any(stop in rest for stop in self._stops)
        if in_bytes or self.stopped:
            return ""
        sure = rest.removesuffix(_HALF)
        sure = sure[: len(sure) - self._held(sure)]
        self._given += len(sure)
        self._pieces.append(sure)
        self._cut(text)
        return sure

    def finish(self) -> str:
        """No token comes any more: the text that was not given out, up to the first stop string."""
        rest = decode(self._tokenizer, self._tail)[self._given :]
        found = [at for stop in self._stops if (at := rest.find(stop)) >= 0]
        rest = rest[: min(found)] if found else rest
        self._pieces.append(rest)
        return rest

    @property
    def text(self) -> str:
        """All that was given out."""
        return "".join(self._pieces)

    def _held(self, text: str) -> int:
        """How many characters at the end are the beginning of a stop string; it never reaches into what was given."""
        for at in range(max(0, len(text) - self._most_held), len(text)):
            if any(stop.startswith(text[at:]) for stop in self._stops):
                return len(text) - at
        return 0

    def _cut(self, text: str) -> None:
        if len(self._tail) <= _LONG:
            return
        shorter = self._tail[-_SHORT:]
        end, open_characters = decode(self._tokenizer, shorter), len(text) - self._given
        # elsewhere it would cut a character, or what is not given out yet: one of the next tokens is a better place
        if text.endswith(end) and len(end) > open_characters:
            self._tail, self._given = shorter, len(end) - open_characters


def decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    """What the tokens spell, with every space of it."""
    return str(tokenizer.decode(tokens, clean_up_tokenization_spaces=False))
