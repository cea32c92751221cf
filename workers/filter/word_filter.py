"""What becomes of a text: its words of some categories are masked, or it is refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from workers.filter.folding import MASK, is_separator
from workers.filter.matcher import Match, Matcher
from workers.filter.settings import Actions


@dataclass(frozen=True, slots=True)
class Filtered:
    """A text after the filter."""

    text: str
    #: whose words it had, sorted
    categories: tuple[str, ...] = ()
    #: where its first word of a category to refuse begins
    refused_at: int | None = None


@dataclass(frozen=True)
class WordFilter:
    """The lists as they are at one time, and the actions by category. Immutable."""

    matcher: Matcher
    actions: Actions

    def apply(self, text: str) -> Filtered:
        """Return the text with each matched character replaced by MASK, so that positions stay."""
        matches = self.matcher.find(text)
        return self.carry_out(text, matches) if matches else Filtered(text)

    def carry_out(self, text: str, matches: Iterable[Match]) -> Filtered:
        """Do with a text what the categories of its matches ask for."""
        masked: list[str] | None = None
        categories: set[str] = set()
        refused_at: int | None = None
        for match in matches:
            categories.add(match.category)
            action = self.actions.of(match.category)
            if action == "mask":
                masked = masked or list(text)
                masked[match.start : match.end] = _masked(text[match.start : match.end])
            elif action == "refuse":
                refused_at = match.start if refused_at is None else min(refused_at, match.start)
        return Filtered("".join(masked) if masked else text, tuple(sorted(categories)), refused_at)


def _masked(word: str) -> Sequence[str]:
    return [each if is_separator(each) else MASK for each in word]
