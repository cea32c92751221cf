"""The bytes that each token of a vocabulary stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from workers.engine.base import TokenLogprob

#: a token that is one byte, in vocabularies that fall back to bytes (SentencePiece's)
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")

#: how SentencePiece writes a space
_SPACE = "\u2581"


class TokenBytes:
    """The bytes of the tokens of one fast tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, bytes] = {}
        self._added: dict[int, str] | None = None
        #: of byte-level BPE: from a character of a token's name to its byte
        self._bytes: dict[str, int] = {}

    def __getitem__(self, token: int) -> bytes:
        """Return the bytes of a token; empty for one that the vocabulary has not."""
        if (known := self._known.get(token)) is None:
            known = self._known[token] = self._spell(token)
        return known

    def _spell(self, token: int) -> bytes:
        if self._added is None:
            self._read_tokenizer()
            assert self._added is not None
        if (content := self._added.get(token)) is not None:
            return content.encode()
        # a model's output layer may have more rows than the vocabulary has tokens
        name = self._tokenizer.convert_ids_to_tokens(token) or ""
        if self._bytes:
            return bytes(self._bytes[each] for each in name if each in self._bytes)
        if byte := _BYTE.fullmatch(name):
            return bytes([int(byte[1], 16)])
        return str(name).replace(_SPACE, " ").encode()

    def _read_tokenizer(self) -> None:
        self._added = {id: content for content, id in self._tokenizer.get_added_vocab().items()}
        decoder = self._tokenizer.backend_tokenizer.decoder
        if decoder is not None and b"ByteLevel" in decoder.__getstate__():
            self._bytes = {name: byte for byte, name in _byte_names().items()}


def _byte_names() -> dict[int, str]:
    """Return the character that stands for each byte in byte-level BPE (`bytes_to_unicode` of GPT-2's encoder.py)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + at) for at, byte in enumerate(others)}


def token_logprob(values: Sequence[float], ids: Sequence[int], names: TokenBytes) -> TokenLogprob:
    """Make one of a chosen token, which comes first, and the likeliest tokens after it."""
    chosen, *top = (TokenLogprob(id, names[id], value) for value, id in zip(values, ids, strict=True))
    return TokenLogprob(chosen.token, chosen.text, chosen.logprob, tuple(top))
