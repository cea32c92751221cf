"""Inputs found on this machine, and which form they have: by name, else by the first line that says."""

from __future__ import annotations

import glob
import importlib.util
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from io import BufferedIOBase, BufferedReader
from typing import Any, Literal, cast

from pydantic import BaseModel

from producer.inputs.files import DAMAGE, Form, Input, open_file, rejoined, suffix, unpacked
from producer.inputs.folders import SUFFIXES, fixed_folder
from producer.inputs.jsonl import LONGEST_LINE, json_object
from producer.inputs.row import JOB_FIELDS, one_question
from producer.inputs.source import DEFAULT_COLUMNS, Columns, Source
from vqa.errors import InvalidJob, SettingsError
from vqa.frozen_model import shown
from vqa.job import Job

Asked = Form | Literal["auto"]

_TABLES: dict[str, Form] = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".pq": "parquet"}

#: lines that are looked at for the first that is a JSON object
_LOOKED_AT = 20


def detect_source(
    inputs: Sequence[str],
    *,
    form: Form | Literal["auto"] = "auto",
    questions: Sequence[str] = (),
    columns: Columns = DEFAULT_COLUMNS,
    defaults: Mapping[str, Any] | None = None,
) -> Source:
    """The source that the options name. Raises SettingsError for what cannot be read at all."""
    plain = _plain(defaults or {})
    found, all_inputs = _opened(inputs, form)
    if found == "images" and not questions:
        raise SettingsError("images need a question: --question 'What is on it?'")
    if questions and found in ("openai", "short"):
        raise SettingsError("--question is for images and tables; rows of these files have their own")
    return Source(found, all_inputs, tuple(questions), columns, plain)


def _plain(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has them, and such as a job takes."""
    if unknown := sorted(defaults.keys() - JOB_FIELDS):
        raise SettingsError(f"{shown(unknown[0])}: no field of a job that rows may share")
    try:
        Job(id="defaults", messages=one_question([], "?"), **defaults)
    except InvalidJob as error:
        raise SettingsError(str(error)) from None
    return {
        name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        for name, value in defaults.items()
    }


def _opened(names: Sequence[str], form: Asked) -> tuple[Form, tuple[Input, ...]]:
    """The inputs and their one form. Raises SettingsError."""
    if not names:
        raise SettingsError("name a file, a folder or - for standard input")
    found = [_standard_input(form) if name == "-" else _found(name, form) for name in names]
    forms = sorted({each for each, _ in found})
    if len(forms) > 1:
        raise SettingsError(f"inputs of different forms ({', '.join(forms)}) are submitted one by one")
    if forms == ["parquet"] and importlib.util.find_spec("pyarrow") is None:
        raise SettingsError("Parquet files are read by pyarrow: pip install 'vqa-queue[parquet]'")
    return found[0][0], tuple(input for _, input in found)


def _standard_input(form: Asked) -> tuple[Form, Input]:
    return _piped("-", os.getcwd(), cast(BufferedIOBase, sys.stdin.buffer), None, form)


def _found(name: str, form: Asked) -> tuple[Form, Input]:
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError) as error:
        if form in ("auto", "images") and glob.has_magic(name):
            return "images", Input(name, fixed_folder(name))
        raise SettingsError(f"{name}: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISDIR(mode):
        if form not in ("auto", "images"):
            raise SettingsError(f"{name}: a folder holds images, not {form}")
        return "images", Input(name, os.path.abspath(name))
    folder = os.path.dirname(os.path.abspath(name))
    if form == "auto":
        form = "images" if suffix(name) in SUFFIXES else _TABLES.get(suffix(name), "auto")
    if stat.S_ISREG(mode):
        return _by_content(name, folder) if form == "auto" else form, Input(name, folder)
    with ExitStack() as stack:
        pipe = stack.enter_context(open_file(name))
        piped = _piped(name, folder, pipe, pipe, form)
        stack.pop_all()
    return piped


def _piped(name: str, folder: str, raw: BufferedIOBase, pipe: BufferedReader | None, form: Asked) -> tuple[Form, Input]:
    if form in ("parquet", "images"):
        raise SettingsError(f"{name}: {form} cannot be read from a pipe")
    try:
        rest = unpacked(raw)
        if form == "auto":
            form, head = _first_says(name, rest)
            rest = rejoined(head, rest)
    except DAMAGE as error:
        raise SettingsError(f"{name} cannot be read: {error}") from None
    return form, Input(name, folder, rest, pipe)


def _by_content(name: str, folder: str) -> Form:
    try:
        with Input(name, folder).open() as stream:
            return "parquet" if stream.peek(4)[:4] == b"PAR1" else _first_says(name, stream)[0]
    except DAMAGE as error:
        raise SettingsError(f"{name} cannot be read: {error}") from None


def _first_says(name: str, stream: BufferedReader) -> tuple[Literal["openai", "short"], bytes]:
    """The form of the first JSON object, and what was read to see it; lines before it that are none are bad rows."""
    head = b""
    for _ in range(_LOOKED_AT):
        line = stream.readline(LONGEST_LINE - len(head))
        head += line
        try:
            document = json_object(line.decode("utf-8-sig"))
        except (InvalidJob, UnicodeDecodeError):
            continue
        return ("openai" if "custom_id" in document or ("body" in document and "id" not in document) else "short"), head
    if head.strip() and suffix(name) not in (".jsonl", ".ndjson"):
        raise SettingsError(f"{name}: its first lines do not say which form it has; name that with --form")
    return "openai", head
