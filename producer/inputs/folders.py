"""Image folders, globs and files as inputs: one row per image and question, streamed in any number."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from shlex import quote
from urllib.parse import quote_from_bytes

from producer.images.locations import resolve_path
from producer.inputs.files import Input
from producer.inputs.row import BadRow, Row, require_id, rows_of_images
from producer.inputs.source import Source
from producer.inputs.visuals import image_parts
from vqa.errors import BadImage, InvalidJob, SettingsError, VQAError

#: suffixes of files that workers decode; of PDF where VQA_PDF=1
IMAGE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
        *(".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpf", ".jpx", ".pdf"),
    }
)

#: suffixes of image formats that workers do not decode
FOREIGN_SUFFIXES = frozenset(
    {
        *(".jxl", ".svg", ".psd", ".eps"),
        *(".tga", ".pbm", ".pgm", ".ppm", ".pnm", ".pcx", ".ico", ".exr", ".hdr", ".dds", ".dcm"),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".pef", ".srw"),
    }
)


def read_images(source: Source) -> Iterator[Row | BadRow]:
    """Yield the rows of all inputs, with images numbered across them. Raises SettingsError if there is no image.

    The custom_id is the image's path from the deepest folder that contains all inputs.
    """
    shared = os.path.commonpath([input.folder for input in source.inputs])
    number = 0
    for input in source.inputs:
        for path in image_paths(input):
            number += 1
            try:
                if isinstance(path, OSError):
                    raise InvalidJob(f"cannot read the folder {_printable(path.filename)[:200]}: {path.strerror}")
                custom_id = require_id(_printable(path[len(shared) :].lstrip("/")), "the image's path")
                if is_foreign(path):
                    yield BadRow(number, custom_id, BadImage(cannot_decode(os.path.basename(custom_id))))
                    continue
                image = resolve_path(path, input.folder)
                parts = image_parts([image], {})
                yield from rows_of_images(number, custom_id, parts, source.questions, source.defaults)
            except VQAError as error:
                yield BadRow(number, None, error)
    if not number:
        raise SettingsError(f"no images in {', '.join(input.name for input in source.inputs)[:200]}")


def is_foreign(path: str) -> bool:
    """Whether a file is an image, by its name, that workers do not decode."""
    return os.path.splitext(path)[1].lower() in FOREIGN_SUFFIXES


def cannot_decode(name: str) -> str:
    """Say what a file that `is_foreign` is, and what to do."""
    base, suffix = os.path.splitext(name)
    kind = suffix[1:].upper()
    return f"{name[:200]}: {kind} files cannot be read; convert it: magick {quote(name)} {quote(base + '.jpg')}"


def fixed_folder(pattern: str) -> str:
    """Return the absolute path of the deepest folder in a glob that contains no wildcard."""
    folder = os.path.dirname(pattern)
    while glob.has_magic(folder):
        folder = os.path.dirname(folder)
    return os.path.abspath(folder)


def image_paths(input: Input) -> Iterator[str | OSError]:
    """Yield the paths of an input's images; an OSError for each folder that cannot be read."""
    if os.path.isdir(input.name):
        yield from _walk(input.folder)
    elif os.path.lexists(input.name):
        yield os.path.abspath(input.name)
    else:
        for path in glob.iglob(os.path.abspath(input.name), recursive=True):
            if _is_image(path) and not os.path.isdir(path):
                yield path


def _walk(folder: str) -> Iterator[str | OSError]:
    """Yield a folder's images sorted by name, then those of its subfolders; an OSError for each unreadable folder.

    Hidden files and folders are skipped. Links to folders are followed, except to a folder that contains the link.
    Memory holds the names of one folder, and of the subfolders still to visit.
    """
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while waiting:
        folder, parents = waiting.pop()
        try:
            info = os.stat(folder)
            inode = (info.st_dev, info.st_ino)
            if inode in parents:
                continue
            images, folders = _list(folder)
        except OSError as error:
            yield error
            continue
        yield from (os.path.join(folder, name) for name in sorted(images))
        # reversed, because the last one is visited next
        waiting += [(os.path.join(folder, name), parents | {inode}) for name in sorted(folders, reverse=True)]


def _list(folder: str) -> tuple[list[str], list[str]]:
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
        # for example a link to itself
        return False


def _is_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES or is_foreign(path)


def _printable(path: str) -> str:
    """Percent-encode unprintable characters, for example bytes that are not UTF-8."""
    if path.isprintable():
        return path
    return "".join(char if char.isprintable() else quote_from_bytes(os.fsencode(char), safe="") for char in path)
