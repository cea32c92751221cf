"""A model's vocabulary for llguidance: the bytes of every token, without special tokens."""

from __future__ import annotations

import copy
import json
import secrets
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from vqa.errors import InvalidJob
from workers.engine.text.special_tokens import is_special

if TYPE_CHECKING:
    from llguidance import LLTokenizer


def vocabulary(tokenizer: Any, eos_ids: Collection[int]) -> LLTokenizer:
    """Convert a fast tokenizer, which must belong to the calling thread; takes two seconds for a large vocabulary.

    `eos_ids` end a text. Raises InvalidJob if llguidance cannot read this kind of tokenizer.
    """
    from llguidance import LLTokenizer

    try:
        backend = copy.copy(tokenizer.backend_tokenizer)
        backend.no_padding()
        backend.no_truncation()
        known = sorted(id for id in eos_ids if id < backend.get_vocab_size())
        return LLTokenizer(_without_special_tokens(backend.to_str()), eos_token=known)
    except Exception as error:
        # llguidance and tokenizers raise many kinds of errors
        reason = type(error).__name__
        raise InvalidJob(f"this model's tokenizer does not support response formats ({reason})") from None


def count_tokens(tokenizer: Any) -> int:
    """Return one more than a tokenizer's largest token."""
    return int(max(tokenizer.get_vocab().values())) + 1


def _without_special_tokens(serialized: str) -> str:
    """Give the special tokens of a serialized tokenizer random names.

    Where a grammar allows one text only, llguidance takes the tokens that the tokenizer makes of it: of the text
    `<|im_end|>` it would make the special token.
    """
    data = json.loads(serialized)
    special = [token for token in data["added_tokens"] if is_special(token["content"])]
    secret = secrets.token_hex(16)
    names = {token["content"]: f"<{secret}-{token['id']}>" for token in special}
    for token in special:
        token |= {"content": names[token["content"]], "special": True, "normalized": False}
    model = data["model"]
    entries = model["vocab"]
    model["vocab"] = (
        {names.get(name, name): id for name, id in entries.items()}
        if isinstance(entries, dict)
        # a Unigram model lists tokens with their scores
        else [[names.get(name, name), score] for name, score in entries]
    )
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    return json.dumps(data)
