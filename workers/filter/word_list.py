"""Files of words: UTF-8, an entry a line, optionally a tab and its category.

`#` begins a comment line; the line `#! simplify` compares the file's entries in simplified Chinese. A `*` before or
after an entry lets a word go on there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vqa.errors import SettingsError
from workers.filter.folding import MASK, Folds, has_unspaced, is_separator, joins, split_units
from workers.filter.settings import CATEGORY, DEFAULT

#: characters of an entry, as it is compared; a stream of text lags behind by as many
MOST_CHARACTERS = 200

_SIMPLIFY = "#! simplify"


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as it is compared."""

    #: without separators, in the form in which all texts are searched
    key: str
    #: the same, not simplified, if it must match exactly so
    exact: str | None
    category: str
    #: before which characters of `key` the entry has separators itself
    gaps: frozenset[int]
    #: whether a word may not begin before it, or go on after it
    starts_word: bool
    ends_word: bool
    #: of a script without spaces between words
    unspaced: bool


@dataclass(frozen=True)
class WordList:
    """The lines of one file."""

    simplify: bool
    #: number, text and category of each entry
    lines: tuple[tuple[int, str, str], ...]
    path: str

    def entries(self, folds: Folds, plain: Folds) -> Iterator[Entry]:
        """Yield the entries as they are compared. Raises SettingsError, which names the line and not its text."""
        for number, text, category in self.lines:
            try:
                yield _entry(text, category, folds, None if self.simplify or folds is plain else plain)
            except ValueError as error:
                raise _wrong(self.path, number, str(error)) from None


def read_list(path: str) -> WordList:
    """Read a file. Raises SettingsError, which names the line and not its text."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"VQA_FILTER_LISTS: {path} cannot be read: {error.strerror}") from None
    if not content:
        # a file that is being written; without its entries, words would be shown
        raise SettingsError(f"VQA_FILTER_LISTS: {path} is empty")
    simplify, lines = False, []
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = raw.decode().strip("\r ")
        except UnicodeDecodeError:
            raise _wrong(path, number, "it is not UTF-8") from None
        if line.startswith("#!"):
            if line != _SIMPLIFY:
                raise _wrong(path, number, f"the only directive is `{_SIMPLIFY}`")
            simplify = True
        elif line.strip() and not line.startswith("#"):
            text, _, category = line.partition("\t")
            category = category.strip() or DEFAULT
            if not CATEGORY.fullmatch(category):
                raise _wrong(path, number, "a category has letters, digits, `_`, `-` and `.`, at most 64")
            lines.append((number, text.strip(), category))
    return WordList(simplify, tuple(lines), path)


def _entry(text: str, category: str, folds: Folds, plain: Mapping[str, str] | None) -> Entry:
    """Raises ValueError."""
    open_before, open_after = text.startswith("*"), len(text) > 1 and text.endswith("*")
    text = text[open_before : len(text) - open_after]
    if MASK in text:
        raise ValueError("an entry cannot have the character that masks words")
    units = split_units(text)
    parts = [folds[unit] for unit in units]
    key = "".join(parts)
    if not key:
        raise ValueError("the entry has no letter, digit or symbol")
    if len(key) > MOST_CHARACTERS:
        raise ValueError(f"an entry has at most {MOST_CHARACTERS} characters")
    if len(key) == 1 and any(map(is_separator, text)):
        # c++ would be found in every c
        raise ValueError("punctuation is not compared, and without it the entry is a single character")
    return Entry(
        key,
        None if plain is None else "".join(plain[unit] for unit in units),
        category,
        frozenset() if all(parts) else _gaps(units, parts),
        starts_word=not open_before and joins(key[0]),
        ends_word=not open_after and joins(key[-1]),
        unspaced=has_unspaced(key),
    )


def _gaps(units: Sequence[str], parts: Sequence[str]) -> frozenset[int]:
    gaps, length = set(), 0
    for unit, part in zip(units, parts, strict=True):
        length += len(part)
        if is_separator(unit[0]):
            gaps.add(length)
    return frozenset(gaps - {0, length})


def _wrong(path: str, number: int, why: str) -> SettingsError:
    return SettingsError(f"VQA_FILTER_LISTS: {path}:{number}: {why}")
