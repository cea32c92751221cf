"""Images found in folders and by globs, one after another and however many there are."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from urllib.parse import quote_from_bytes

from producer.images.locations import from_path
from producer.inputs.files import Input
from producer.inputs.row import BadRow, Row, each_question, named
from producer.inputs.source import Source
from vqa.errors import InvalidJob, SettingsError, VQAError

#: what the names of images end in, in formats that workers decode
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


def fixed_folder(pattern: str) -> str:
    """The deepest folder that a glob names, absolute."""
    folder = os.path.dirname(pattern)
    while glob.has_magic(folder):
        folder = os.path.dirname(folder)
    return os.path.abspath(folder)


def globbed(pattern: str) -> Iterator[str]:
    """The images that a glob finds, absolute; ** is any folders."""
    for path in glob.iglob(os.path.abspath(pattern), recursive=True):
        if _is_image(path) and os.path.isfile(path):
            yield path


def walked(folder: str) -> Iterator[str | OSError]:
    """A folder's images by name, then those of the folders in it, or why one of them cannot be read.

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
            images, folders = _listed(folder)
        except OSError as error:
            yield error
            continue
        yield from (os.path.join(folder, name) for name in sorted(images))
        # the last is the next to be looked at
        waiting += [(os.path.join(folder, name), above | {here}) for name in sorted(folders, reverse=True)]


def _listed(folder: str) -> tuple[list[str], list[str]]:
    images: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                folders.append(entry.name)
            elif _is_image(entry.name):
                images.append(entry.name)
    return images, folders


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # such as a link to itself
        return False


def _is_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in SUFFIXES


def read_images(source: Source) -> Iterator[Row | BadRow]:
    """Rows of all inputs, numbered through. Raises SettingsError where there is no image at all."""
    shared = os.path.commonpath([input.folder for input in source.inputs])
    number = 0
    for input in source.inputs:
        for path in _paths(input):
            number += 1
            try:
                if isinstance(path, OSError):
                    raise InvalidJob(f"the folder {_printed(path.filename)[:200]} cannot be read: {path.strerror}")
                custom_id = named(_printed(path[len(shared) :].lstrip("/")), "the image's path")
                image = from_path(path, input.folder)
                yield from each_question(number, custom_id, image, source.questions, source.defaults)
            except VQAError as error:
                yield BadRow(number, None, error)
    if not number:
        raise SettingsError(f"no images in {', '.join(input.name for input in source.inputs)[:200]}")


def _paths(input: Input) -> Iterator[str | OSError]:
    if os.path.isdir(input.name):
        yield from walked(input.folder)
    elif os.path.lexists(input.name):
        yield os.path.abspath(input.name)
    else:
        yield from globbed(input.name)


def _printed(path: str) -> str:
    """The path with what cannot be printed percent-encoded, such as bytes that are not UTF-8."""
    if path.isprintable():
        return path
    return "".join(char if char.isprintable() else quote_from_bytes(os.fsencode(char), safe="") for char in path)
