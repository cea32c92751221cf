"""Finds all entries of word lists in a text, in one pass (Aho-Corasick), and then looks at what is around each.

The text is searched without its separators. Where it has some inside of an entry, they have to look like a trick:
punctuation such as `-` or `*`; spaces in a script without spaces; anything, if all letters stand apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, compress

from vqa.errors import SettingsError
from workers.filter.folding import Folds, is_separator, joins, split_units
from workers.filter.word_list import Entry

#: separators between two characters of an entry beyond which they do not belong together
MOST_SEPARATORS = 3

#: an entry with fewer characters is not looked for across commas, nor across spaces in a script that has them: `a, b`
_LEAST_APART = 3

#: separators that are also between words that have nothing to do with each other; an apostrophe makes he'll of hell
_CLAUSE_MARKS = frozenset("\n\r,;:!?'\"，。！？；：、’‘“”")  # noqa: RUF001


@dataclass(frozen=True, slots=True)
class Match:
    """Where a text has a word of a category."""

    #: of the original text, in characters
    start: int
    end: int
    category: str


class Matcher:
    """Finds entries. Immutable; used by several threads at once. Raises SettingsError without ahocorasick_rs."""

    def __init__(self, entries: Iterable[Entry], folds: Folds, plain: Folds) -> None:
        """`plain` folds as `folds` does, without replacing traditional Chinese characters."""
        try:
            from ahocorasick_rs import AhoCorasick, MatchKind
        except ImportError:
            raise SettingsError("VQA_FILTER_LISTS needs the extra `filter`: pip install 'vqa-queue[filter]'") from None
        by_key: dict[str, list[Entry]] = {}
        for entry in entries:
            same = by_key.setdefault(entry.key, [])
            if entry not in same:
                same.append(entry)
        self._entries = list(by_key.values())
        self.folds = folds
        self._fold = folds.__getitem__
        self._plain = plain
        # all matches, also those inside of others: each may be of another category
        self._find = AhoCorasick(list(by_key), matchkind=MatchKind.Standard) if by_key else None
        self.size = sum(map(len, self._entries))
        #: characters of the longest entry
        self.longest = max(map(len, by_key), default=0)
        self.categories = frozenset(entry.category for each in self._entries for entry in each)

    def find(self, text: str, after_word: bool = False) -> list[Match]:
        """Return all matches; `after_word` says that a letter comes directly before the text."""
        if self._find is None:
            return []
        units = split_units(text)
        parts = list(map(self._fold, units))
        folded = "".join(parts)
        found = self._find.find_matches_as_indexes(folded, overlapping=True)
        if not found:
            return []
        place = _Place(units, parts, folded, after_word)
        return [
            Match(*place.span(start, end), entry.category)
            for number, start, end in found
            for entry in self._entries[number]
            if self._is_match(entry, place, start, end)
        ]

    def _is_match(self, entry: Entry, place: _Place, start: int, end: int) -> bool:
        return (
            (not entry.starts_word or not place.is_in_word(start))
            and (not entry.ends_word or not place.is_in_word(end))
            and place.holds_together(entry, start, end)
            and (entry.exact is None or place.folded_by(self._plain, start, end) == entry.exact)
        )


class _Place:
    """A text and its folded form: what of the one is where in the other."""

    def __init__(self, units: Sequence[str], parts: Sequence[str], folded: str, after_word: bool) -> None:
        self._units = units
        self._folded = folded
        self._after_word = after_word
        #: number of the unit of each folded character
        self._unit = list(compress(range(len(parts)), parts))
        if len(self._unit) != len(folded):
            # some units fold to several characters
            self._unit = [number for number, part in enumerate(parts) for _ in part]
        #: where each unit begins in the text, and the last one ends; None if units are characters
        self._starts = None if isinstance(units, str) else list(accumulate(map(len, units), initial=0))

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return where the folded characters are in the text."""
        first, after = self._unit[start], self._unit[end - 1] + 1
        return (first, after) if self._starts is None else (self._starts[first], self._starts[after])

    def is_in_word(self, at: int) -> bool:
        """Return whether a word goes on from before the folded character `at` to it."""
        if at == 0:
            return self._after_word and not self._gap(-1, self._unit[0])
        if at == len(self._folded):
            return False
        before, after = self._unit[at - 1], self._unit[at]
        return joins(self._folded[at - 1]) and joins(self._folded[at]) and not self._gap(before, after)

    def _gap(self, before: int, after: int) -> str:
        """Return the separators between two units."""
        if after - before == 1:
            return ""
        return "".join(unit for unit in self._units[before + 1 : after] if is_separator(unit[0]))

    def holds_together(self, entry: Entry, start: int, end: int) -> bool:
        """Return whether the separators inside of a match leave it one."""
        gaps = [self._gap(self._unit[at - 1], self._unit[at]) for at in range(start + 1, end)]
        if not any(gaps):
            return True
        if any(len(gap) > MOST_SEPARATORS for gap in gaps):
            return False
        are_apart = all(gaps) and len(gaps) + 1 >= _LEAST_APART
        others = "".join(gap for at, gap in enumerate(gaps, 1) if at not in entry.gaps)
        return are_apart or not any(_divides(each, entry) for each in others)

    def folded_by(self, folds: Mapping[str, str], start: int, end: int) -> str:
        return "".join(folds[unit] for unit in self._units[self._unit[start] : self._unit[end - 1] + 1])


def _divides(separator: str, entry: Entry) -> bool:
    """Return whether a separator inside of a match, whose letters do not all stand apart, makes it none."""
    if separator in _CLAUSE_MARKS:
        return True
    return not entry.unspaced and (separator.isspace() or len(entry.key) < _LEAST_APART)
