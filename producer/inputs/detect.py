"""Detection of an input's form: by its kind and name, else by its first JSON object."""

from __future__ import annotations

import glob
import importlib.util
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from io import BufferedReader
from typing import Any, Literal

from pydantic import BaseModel

from producer.inputs.compression import DAMAGE, decompressed, prepend
from producer.inputs.encoding import as_utf8
from producer.inputs.files import Form, Input, file_suffix, open_file
from producer.inputs.folders import IMAGE_SUFFIXES, cannot_decode, fixed_folder, is_foreign
from producer.inputs.jsonl import MAX_LINE_BYTES, json_object
from producer.inputs.row import JOB_FIELDS, question_messages
from producer.inputs.source import DEFAULT_COLUMNS, Columns, Source
from producer.inputs.visuals import FIELD_COLUMNS
from vqa.errors import InvalidJob, SettingsError
from vqa.frozen_model import shown
from vqa.jobs.job import Job
from vqa.jobs.message import Detail

FormOrAuto = Form | Literal["auto"]

_TABLES: dict[str, Form] = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".pq": "parquet"}

#: lines that are searched for the first JSON object
_MAX_LINES = 20


def detect_source(
    inputs: Sequence[str],
    *,
    form: FormOrAuto = "auto",
    questions: Sequence[str] = (),
    columns: Columns = DEFAULT_COLUMNS,
    defaults: Mapping[str, Any] | None = None,
    detail: Detail | None = None,
) -> Source:
    """Return the source that the options name. Raises SettingsError if it cannot be read, or options conflict."""
    plain = _plain(defaults or {})
    if inputs and all(is_foreign(name) and os.path.isfile(name) for name in inputs):
        raise SettingsError(cannot_decode(inputs[0]))
    detected, all_inputs = _detect_all([each for name in inputs for each in _expanded(name, form)], form)
    if detected == "images" and not questions:
        raise SettingsError("images need a question: --question 'What is on it?'")
    if questions and detected in ("openai", "short"):
        raise SettingsError("--question is for images and tables; rows of JSON Lines files have their own questions")
    if columns.fields and detected not in ("csv", "parquet"):
        raise SettingsError("--column is for tables; rows of JSON Lines files have fields of their own")
    if unknown := sorted(set(columns.fields) - FIELD_COLUMNS):
        raise SettingsError(f"--column {shown(unknown[0])}: there are {', '.join(sorted(FIELD_COLUMNS))}")
    return Source(detected, all_inputs, tuple(questions), columns, plain, detail)


def _plain(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Check the defaults and return them as JSON values. Raises SettingsError."""
    if unknown := sorted(defaults.keys() - JOB_FIELDS):
        raise SettingsError(f"{shown(unknown[0])}: not a field of a job that rows can share")
    try:
        Job(id="defaults", messages=question_messages([], "?"), **defaults)
    except InvalidJob as error:
        raise SettingsError(str(error)) from None
    return {
        name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        for name, value in defaults.items()
    }


def _detect_all(names: Sequence[str], form: FormOrAuto) -> tuple[Form, tuple[Input, ...]]:
    if not names:
        raise SettingsError("name a file, a folder, or - for standard input")
    detected = [_detect(name, form) for name in names]
    forms = sorted({each for each, _ in detected})
    if len(forms) > 1:
        raise SettingsError(f"submit inputs of different forms ({', '.join(forms)}) one by one")
    if forms == ["parquet"] and importlib.util.find_spec("pyarrow") is None:
        raise SettingsError("Parquet needs the package pyarrow: pip install 'vqa-queue[parquet]'")
    return detected[0][0], tuple(input for _, input in detected)


def _expanded(name: str, form: FormOrAuto) -> list[str]:
    """Return the files of a glob of files with rows; images are found while they are read."""
    suffix = file_suffix(name)
    of_images = form == "images" or (form == "auto" and (glob.has_magic(suffix) or suffix in ("", *IMAGE_SUFFIXES)))
    if not glob.has_magic(name) or os.path.lexists(name) or of_images:
        return [name]
    if not (found := sorted(each for each in glob.glob(name, recursive=True) if os.path.isfile(each))):
        raise SettingsError(f"{name}: No such file")
    return found


def _detect(name: str, form: FormOrAuto) -> tuple[Form, Input]:
    if name == "-":
        return _detect_pipe(name, os.getcwd(), open_file(name), None, form)
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError) as error:
        if form in ("auto", "images") and glob.has_magic(name):
            return "images", Input(name, fixed_folder(name))
        raise SettingsError(f"{name}: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISDIR(mode):
        if form not in ("auto", "images"):
            raise SettingsError(f"{name}: a folder contains images, not {form}")
        return "images", Input(name, os.path.abspath(name))
    folder = os.path.dirname(os.path.abspath(name))
    if form == "auto":
        is_image = file_suffix(name) in IMAGE_SUFFIXES or is_foreign(name)
        form = "images" if is_image else _TABLES.get(file_suffix(name), "auto")
    if stat.S_ISREG(mode):
        return _form_of_content(name, folder) if form == "auto" else form, Input(name, folder)
    with ExitStack() as stack:
        pipe = stack.enter_context(open_file(name))
        detected = _detect_pipe(name, folder, pipe, pipe, form)
        stack.pop_all()
    return detected


def _detect_pipe(
    name: str, folder: str, raw: BufferedReader, pipe: BufferedReader | None, form: FormOrAuto
) -> tuple[Form, Input]:
    if form in ("parquet", "images"):
        raise SettingsError(f"{name}: cannot read {form} from a pipe")
    try:
        rest = as_utf8(decompressed(raw, name))
        if form == "auto":
            form, head = _form_of_lines(name, rest)
            rest = prepend(head, rest)
    except DAMAGE as error:
        raise SettingsError(f"cannot read {name}: {error}") from None
    return form, Input(name, folder, rest, pipe)


def _form_of_content(name: str, folder: str) -> Form:
    try:
        with Input(name, folder).open() as stream:
            return "parquet" if stream.peek(4)[:4] == b"PAR1" else _form_of_lines(name, stream)[0]
    except DAMAGE as error:
        raise SettingsError(f"cannot read {name}: {error}") from None


def _form_of_lines(name: str, stream: BufferedReader) -> tuple[Literal["openai", "short"], bytes]:
    """Return the form of the first JSON object, and the bytes read so far; lines before it will be bad rows."""
    head = b""
    for _ in range(_MAX_LINES):
        line = stream.readline(MAX_LINE_BYTES - len(head))
        head += line
        try:
            document = json_object(line.decode("utf-8-sig"))
        except (InvalidJob, UnicodeDecodeError):
            continue
        return ("openai" if "custom_id" in document or ("body" in document and "id" not in document) else "short"), head
    if head.strip() and file_suffix(name) not in (".jsonl", ".ndjson"):
        raise SettingsError(f"{name}: cannot tell its form from the first lines; name it with --form")
    return "openai", head
