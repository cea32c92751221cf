"""The bundled model's tokenizer with as many tokens as the large model's: what masks of tokens cost goes by that."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

_LETTERS = "etaoinshrdlcumwfgypbvkjxqz"
#: with a space before it, as byte-level tokens are written, or none
_BEFORE = ("\u0120", "")
_LENGTHS = (2, 9)


def widened(file: Path, tokens: int) -> str:
    """A tokenizer.json (byte-level BPE) that splits texts as this one does: nothing is merged to the tokens it gains.

    They are strings of letters, the frequent ones more often: masks take as long as with Qwen's own tokens (25 us at
    the median in a string of JSON, on one core of a server).
    """
    data: dict[str, Any] = json.loads(file.read_text())
    entries: dict[str, int] = data["model"]["vocab"]
    draw = random.Random(0)
    weights = range(len(_LETTERS), 0, -1)
    while len(entries) < tokens:
        word = "".join(draw.choices(_LETTERS, weights, k=draw.randint(*_LENGTHS)))
        entries.setdefault(draw.choice(_BEFORE) + word, len(entries))
    return json.dumps(data)
