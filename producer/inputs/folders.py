"""Pictures found in folders and by globs, one after another and however many there are."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator

#: what the names of pictures end in, in formats that workers decode
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


def fixed_folder(pattern: str) -> str:
    """The deepest folder that a glob names, absolute."""
    folder = os.path.dirname(pattern)
    while glob.has_magic(folder):
        folder = os.path.dirname(folder)
    return os.path.abspath(folder)


def globbed(pattern: str) -> Iterator[str]:
    """The pictures that a glob finds, absolute; ** is any folders."""
    for path in glob.iglob(os.path.abspath(pattern), recursive=True):
        if _is_picture(path) and os.path.isfile(path):
            yield path


def walked(folder: str) -> Iterator[str | OSError]:
    """A folder's pictures by name, then those of the folders in it, or why one of them cannot be read.

    What is hidden is left out. A link to a folder is followed, unless it leads to one that it is in. Only the names in
    one folder are held, and those of folders on the way to it.
    """
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while waiting:
        folder, above = waiting.pop()
        try:
            found = os.stat(folder)
            here = (found.st_dev, found.st_ino)
            if here in above:
                continue
            pictures, folders = _listed(folder)
        except OSError as error:
            yield error
            continue
        yield from (os.path.join(folder, name) for name in sorted(pictures))
        # the last is the next to be looked at
        waiting += [(os.path.join(folder, name), above | {here}) for name in sorted(folders, reverse=True)]


def _listed(folder: str) -> tuple[list[str], list[str]]:
    pictures: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                folders.append(entry.name)
            elif _is_picture(entry.name):
                pictures.append(entry.name)
    return pictures, folders


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # such as a link to itself
        return False


def _is_picture(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in SUFFIXES
