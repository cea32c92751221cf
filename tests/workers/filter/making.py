"""Filters for tests, without files."""

from collections.abc import Iterable, Mapping
from typing import Any

from workers.filter.folding import Folds
from workers.filter.matcher import Matcher
from workers.filter.settings import DEFAULT, Actions
from workers.filter.simplified import simplified_characters
from workers.filter.word_filter import WordFilter
from workers.filter.word_list import WordList


def words(
    entries: Iterable[str] | Mapping[str, str], simplify: bool = False, others: Iterable[str] = (), **actions: Any
) -> WordFilter:
    """Make a filter of entries, with categories or without; `others` are of a list that is not simplified."""
    categories = entries if isinstance(entries, Mapping) else dict.fromkeys(entries, DEFAULT)
    lines = tuple((number, text, category) for number, (text, category) in enumerate(categories.items(), 1))
    plain = Folds()
    folds = Folds(simplified_characters()) if simplify else plain
    lists = [
        WordList(simplify, lines, "list"),
        WordList(False, tuple((number, text, DEFAULT) for number, text in enumerate(others, 1)), "others"),
    ]
    return WordFilter(
        Matcher((entry for each in lists for entry in each.entries(folds, plain)), folds, plain), Actions(actions)
    )
