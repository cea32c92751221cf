"""Folders, globs and files of pictures: a row, or one for each of several questions, for each picture.

A custom_id is the picture's path from the deepest folder that all inputs share: of one folder, from there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from urllib.parse import quote_from_bytes

from producer.images.locations import from_path
from producer.inputs.asking import each_question
from producer.inputs.folders import globbed, walked
from producer.inputs.input import Input
from producer.inputs.row import BadRow, Row, named
from producer.inputs.source import Source
from vqa.errors import InvalidJob, SettingsError, VQAError


def read_pictures(source: Source) -> Iterator[Row | BadRow]:
    """Rows of all inputs, numbered through. Raises SettingsError where there is no picture at all."""
    shared = os.path.commonpath([input.folder for input in source.inputs])
    number = 0
    for input in source.inputs:
        for path in _paths(input):
            number += 1
            try:
                if isinstance(path, OSError):
                    raise InvalidJob(f"the folder {_printed(path.filename)[:200]} cannot be read: {path.strerror}")
                custom_id = named(_printed(path[len(shared) :].lstrip("/")), "the picture's path")
                picture = from_path(path, input.folder)
                yield from each_question(number, custom_id, picture, source.questions, source.defaults)
            except VQAError as error:
                yield BadRow(number, None, error)
    if not number:
        raise SettingsError(f"no pictures in {', '.join(input.name for input in source.inputs)[:200]}")


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
