"""Traditional Chinese characters and their simplified forms, by OpenCC's character table (`t2s`)."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from functools import cache

from vqa.errors import SettingsError

#: the Unicode blocks of ideographs
_BLOCKS = ((0x3400, 0xA000), (0xF900, 0xFB00), (0x20000, 0x33480))


@cache
def simplified_characters() -> Mapping[int, str]:
    """Return a table for `str.translate`, one character for one. Raises SettingsError without OpenCC.

    Words are not looked at: positions in a text must not move, and both sides of a comparison are folded alike.
    """
    try:
        from opencc import OpenCC
    except ImportError:
        raise SettingsError(
            "VQA_FILTER_LISTS: a list says `#! simplify`, which needs OpenCC: pip install 'vqa-queue[filter]'"
        ) from None
    codes = [code for block in _BLOCKS for code in range(*block) if unicodedata.category(chr(code)) == "Lo"]
    converted = OpenCC("t2s").convert("\n".join(map(chr, codes))).split("\n")
    return {code: to for code, to in zip(codes, converted, strict=True) if to != chr(code) and len(to) == 1}
