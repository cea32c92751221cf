"""A model's tokens as llguidance knows them: by their bytes, and none of them a control token."""

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
    """Of a fast tokenizer, which belongs to this thread; `end_ids` end a text. Takes two seconds for a large one.

    Raises InvalidJob where it is of a kind that llguidance cannot read.
    """
    from llguidance import LLTokenizer

    try:
        backend = copy.copy(tokenizer.backend_tokenizer)
        backend.no_padding()
        backend.no_truncation()
        known = sorted(id for id in eos_ids if id < backend.get_vocab_size())
        return LLTokenizer(_without_control_tokens(backend.to_str()), eos_token=known)
    except Exception as error:
        # llguidance and tokenizers raise of many kinds
        reason = type(error).__name__
        raise InvalidJob(f"the answers of this model cannot be kept to a response format ({reason})") from None


def _without_control_tokens(written: str) -> str:
    """The tokenizer with names that nobody knows for the tokens that steer the model.

    Where a grammar leaves no choice, llguidance takes the tokens that the tokenizer makes of the text: of the choice
    `<|im_end|>` the control token, which is not that text.
    """
    data = json.loads(written)
    control = [token for token in data["added_tokens"] if is_special(token["content"])]
    secret = secrets.token_hex(16)
    names = {token["content"]: f"<{secret}-{token['id']}>" for token in control}
    for token in control:
        token |= {"content": names[token["content"]], "special": True, "normalized": False}
    model = data["model"]
    entries = model["vocab"]
    model["vocab"] = (
        {names.get(name, name): id for name, id in entries.items()}
        if isinstance(entries, dict)
        # Unigram's, with their scores
        else [[names.get(name, name), score] for name, score in entries]
    )
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    return json.dumps(data)
