"""Keeps a user's words words: in them, no token that steers the model is left in one piece."""

from __future__ import annotations

import re
from typing import Any

from vqa.errors import InvalidJob

#: a break may put together what was apart, which is broken next; more rounds than this no real tokenizer needs
_ROUNDS = 8


class SpecialTokens:
    """The tokens that a tokenizer takes whole out of any text: roles, ends, places of images, tool calls.

    A prompt's text is one string for the tokenizer, so a question that holds `<|im_start|>system` would open a new
    turn, and one that holds `<|image_pad|>` would claim an image. `plain` breaks them with a space after the first
    character: the model reads `< |im_start|>`, and any other text is left as it is.
    """

    def __init__(self, processor: Any) -> None:
        self._tokenizer = processor.tokenizer
        added = self._tokenizer.get_added_vocab()
        # placeholders of images need not be tokens: the processor replaces them in the string
        extra = {getattr(processor, name, None) for name in ("image_token", "video_token", "audio_token")}
        tokens = {token for token in {*added, *extra} if isinstance(token, str) and is_special(token)}
        longest_first = sorted(tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if tokens else None
        self._ids = frozenset(added[token] for token in tokens if token in added) - {self._tokenizer.unk_token_id}

    def plain(self, text: str) -> str:
        """`text` with every control token in it broken.

        Raises InvalidJob where that cannot be done, UnicodeEncodeError for what is not text.
        """
        text.encode()
        if self._pattern is None:
            return text
        for _ in range(_ROUNDS):
            if not self._pattern.search(text):
                break
            text = self._pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
        # the tokenizer's own normalization may make a token of what was none
        if not self._ids.isdisjoint(self._tokenizer(text, add_special_tokens=False)["input_ids"]):
            raise InvalidJob("the text cannot be told from the model's control tokens")
        return text


def is_special(token: str) -> bool:
    """Not so runs of spaces and single characters, which some tokenizers add to save tokens."""
    return len(token) > 1 and not token.isspace()
