"""The word lists as they are on the disk: read at start, and again when a file has changed."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from itertools import chain

from vqa.errors import SettingsError
from workers.filter.folding import Folds
from workers.filter.matcher import Matcher
from workers.filter.settings import DEFAULT, FilterSettings
from workers.filter.simplified import simplified_characters
from workers.filter.word_filter import WordFilter
from workers.filter.word_list import read_list

log = logging.getLogger(__name__)

#: seconds between two looks at the files
LOOK_S = 1.0

#: of each file: modification time in ns, size in bytes, inode; None if it is not there
_State = Sequence[tuple[int, int, int] | None]


class Lists:
    """Gives the current WordFilter. Used by several threads at once, of which one reads changed files."""

    def __init__(self, settings: FilterSettings, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the lists. Raises SettingsError, which names file and line."""
        self._paths, self._actions = settings.paths, settings.actions
        self._clock = clock
        self._looking = threading.Lock()
        self._state = self._look()
        self._words = self._read()
        self._due = clock() + LOOK_S
        if unused := self._actions.named.keys() - self._words.matcher.categories - {DEFAULT}:
            raise SettingsError(f"VQA_FILTER_ACTIONS: no list has the category {', '.join(sorted(unused))}")
        log.info("word filter: %s", self._summary())

    def current(self) -> WordFilter:
        """Return the filter for the files as they were within the last second, at most; an invalid list is ignored."""
        if self._clock() >= self._due and self._looking.acquire(blocking=False):
            try:
                self._refresh()
            finally:
                self._due = self._clock() + LOOK_S
                self._looking.release()
        return self._words

    def _refresh(self) -> None:
        state = self._look()
        if state == self._state:
            return
        self._state = state
        try:
            self._words = self._read()
        except SettingsError as error:
            log.error("word filter: the changed lists are not used, the former ones stay: %s", error)
        else:
            log.info("word filter: read again: %s", self._summary())

    def _look(self) -> _State:
        return [_state(path) for path in self._paths]

    def _read(self) -> WordFilter:
        lists = [read_list(path) for path in self._paths]
        plain = Folds()
        folds = Folds(simplified_characters()) if any(each.simplify for each in lists) else plain
        entries = chain.from_iterable(each.entries(folds, plain) for each in lists)
        return WordFilter(Matcher(entries, folds, plain), self._actions)

    def _summary(self) -> str:
        matcher = self._words.matcher
        return f"{matcher.size:,} entries in {len(matcher.categories)} categories, from {len(self._paths)} lists"


def _state(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
