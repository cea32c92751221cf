"""Filters a text that comes in pieces: holds back what may be the beginning of an entry."""

from __future__ import annotations

from workers.filter.folding import is_separator, joins, split_units
from workers.filter.matcher import MOST_SEPARATORS
from workers.filter.word_filter import WordFilter

#: characters held back beyond which nothing more is let through: all are searched again with each piece, and invisible
#: characters or overlapping words could hold back any number
MOST_HELD = 4096


class StreamFilter:
    """Lets the text through that no later piece can change; what it lets through begins the filtered text."""

    def __init__(self, words: WordFilter) -> None:
        self._words = words
        self._held = ""
        #: whether a letter comes directly before `_held`
        self._after_word = False
        #: whether nothing more is let through: a word of a category to refuse has come, or MOST_HELD was reached
        self.ended = False

    def push(self, piece: str) -> str:
        """Take the next piece; return the filtered text that can be shown."""
        if self.ended:
            return ""
        self._held += piece
        matches = self._words.matcher.find(self._held, self._after_word)
        cut = self._cut()
        # a match that would be cut in two is held back as a whole, and what overlaps with it
        for match in sorted(matches, key=lambda match: -match.end):
            if match.start < cut < match.end:
                cut = match.start
        known = [match for match in matches if match.start < cut]
        filtered = self._words.carry_out(self._held[:cut], known)
        self._after_word = self._ends_in_word(cut)
        self._held = self._held[cut:]
        self.ended = filtered.refused_at is not None or len(self._held) > MOST_HELD
        return filtered.text[: filtered.refused_at]

    def _cut(self) -> int:
        """Return where an entry may begin of which, or after which, a character is still to come."""
        matcher = self._words.matcher
        cut = at = len(self._held)
        letters = separators = 0
        for unit in reversed(split_units(self._held)):
            if letters >= matcher.longest or separators > MOST_SEPARATORS:
                break
            at -= len(unit)
            if is_separator(unit[0]):
                separators += 1
            elif folded := matcher.folds[unit]:
                cut, separators = at, 0
                letters += len(folded)
        return cut

    def _ends_in_word(self, cut: int) -> bool:
        for unit in reversed(split_units(self._held[:cut])):
            if is_separator(unit[0]):
                return False
            if folded := self._words.matcher.folds[unit]:
                return joins(folded[-1])
        return self._after_word
