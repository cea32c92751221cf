"""How texts are compared: without case, width, accents, spaces, punctuation and invisible characters.

A text is split into units: characters, or a letter with the parts that Unicode writes after it (a Hangul syllable in
jamo, a kana with its sound mark). Each unit folds to some characters, or to none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache

#: what replaces a matched character
MASK = "\u2588"

_IN_PARTS = re.compile("[\u1100-\u11ff\u3099\u309a\uff9e\uff9f]")
_UNIT = re.compile(
    "[\u1100-\u1112][\u1161-\u1175][\u11a8-\u11c2]?|[\uac00-\ud7a3][\u11a8-\u11c2]"
    "|[\u3041-\u3096\u309d\u309e\u30a1-\u30fa\u30fc-\u30fe][\u3099\u309a]|[\uff66-\uff9d][\uff9e\uff9f]|.",
    re.DOTALL,
)

#: characters of these are not split into letter and mark
_WHOLE = re.compile("[\u3041-\u30ff\uac00-\ud7a3]")

#: scripts that put no spaces between words, or not between a word and its particle: Thai, Lao, Burmese, Hangul, Khmer,
#: kana, bopomofo, Han
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff"
    "\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff]"
)

#: fillers that Unicode counts as letters; they are drawn as nothing
_FILLERS = frozenset("\u115f\u1160\u3164\uffa0\u17b4\u17b5")

#: characters about which something is remembered; a text may hold any of a million
_MOST_KNOWN = 65_536


def split_units(text: str) -> Sequence[str]:
    """Return the units of a text; joined they are the text."""
    return _UNIT.findall(text) if _IN_PARTS.search(text) else text


@lru_cache(_MOST_KNOWN)
def is_separator(character: str) -> bool:
    """Return whether the character separates others: a space, a line's end, punctuation, a mathematical sign."""
    category = unicodedata.category(character)
    return category[0] in "ZP" or category in ("Sm", "Sk", "Cc")


@lru_cache(_MOST_KNOWN)
def joins(character: str) -> bool:
    """Return whether a word beside the character goes on in it."""
    return (unicodedata.category(character)[0] in "LNM" or character == MASK) and not has_unspaced(character)


def has_unspaced(text: str) -> bool:
    """Return whether a character's script puts no spaces between words."""
    return _UNSPACED.search(text) is not None


def _is_accent(character: str) -> bool:
    # https://www.unicode.org/reports/tr44/#Canonical_Combining_Class_Values: 1 overlays, 10 to 36 Hebrew and Arabic
    # points, from 200 accents. Those between are letters of their scripts: a virama, a Thai vowel
    order = unicodedata.combining(character)
    return order == 1 or 10 <= order <= 36 or order >= 200


def _is_invisible(character: str) -> bool:
    category = unicodedata.category(character)
    return category in ("Cf", "Me", "Cs", "Co", "Cn") or character in _FILLERS or 0xFE00 <= ord(character) <= 0xFE0F


class Folds(dict[str, str]):
    """What each unit folds to; made on demand. Used by several threads at once."""

    def __init__(self, simplified: Mapping[int, str] | None = None) -> None:
        """Also replace characters by `simplified`, a table for `str.translate`."""
        super().__init__()
        self._simplified = simplified or {}

    def __missing__(self, unit: str) -> str:
        folded = self._fold(unit)
        if len(self) < _MOST_KNOWN:
            self[unit] = folded
        return folded

    def _fold(self, unit: str) -> str:
        composed = unicodedata.normalize("NFKC", unit)
        parts = (each if _WHOLE.match(each) else unicodedata.normalize("NFKD", each.casefold()) for each in composed)
        kept = (
            each
            for part in parts
            for each in part
            if not (_is_accent(each) or _is_invisible(each) or is_separator(each))
        )
        # a letter may have a case only after its accent is gone
        return "".join(kept).casefold().translate(self._simplified)
