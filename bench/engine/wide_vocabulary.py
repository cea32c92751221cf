"""The bundled model's tokenizer, extended to a large model's vocabulary, which determines the cost of token masks."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

_LETTERS = "etaoinshrdlcumwfgypbvkjxqz"
#: a leading space as byte-level BPE writes it, or none
_BEFORE = ("\u0120", "")
_LENGTHS = (2, 9)


def widened(file: Path, tokens: int) -> str:
    """Return the tokenizer.json (byte-level BPE) extended to `tokens` tokens.

    Texts are split as before: no merge yields a new token. New tokens are strings of letters, frequent letters more
    often: masks take as long as with Qwen's own tokens (25 us at the median in a JSON string, on one server core).
    """
    data: dict[str, Any] = json.loads(file.read_text())
    entries: dict[str, int] = data["model"]["vocab"]
    draw = random.Random(0)
    weights = range(len(_LETTERS), 0, -1)
    while len(entries) < tokens:
        word = "".join(draw.choices(_LETTERS, weights, k=draw.randint(*_LENGTHS)))
        entries.setdefault(draw.choice(_BEFORE) + word, len(entries))
    return json.dumps(data)
