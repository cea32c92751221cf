"""What the options name: which form it has, and what cannot be read at all."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from producer import RetryPolicy, SettingsError
from producer.inputs import BadRow, Columns, Row, detect_source, read_rows

SHORT = json.dumps({"id": "a", "image": "a.png", "question": "?"})
OPENAI = json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {}})


@pytest.mark.parametrize(
    ("name", "text", "form"),
    [
        ("in.jsonl", SHORT, "short"),
        ("in.jsonl", "\n\n" + OPENAI, "openai"),
        ("in.jsonl", "broken\n" + SHORT, "short"),
        ("in", '{"body": {}}', "openai"),
        ("in", "\ufeff" + SHORT, "short"),
        ("in", "", "openai"),
        ("in.jsonl", "broken", "openai"),
        ("in.CSV", SHORT, "csv"),
        ("in.tsv.zst", SHORT, "csv"),
        ("in.parquet", SHORT, "parquet"),
        ("in", "PAR1", "parquet"),
    ],
)
def test_the_form_is_seen_from_the_name_or_the_first_object(tmp_path: Path, name: str, text: str, form: str) -> None:
    (tmp_path / name).write_text(text)
    assert detect_source([str(tmp_path / name)]).form == form


def test_a_form_that_is_named_is_taken(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(SHORT)
    source = detect_source([str(tmp_path / "in.csv")], form="short")
    assert [row.custom_id for row in read_rows(source)] == ["a"]
    assert source.inputs[0].folder == str(tmp_path)


@pytest.mark.parametrize(
    ("inputs", "options", "reason"),
    [
        ([], {}, "name a file"),
        (["missing.jsonl"], {}, "No such file"),
        (["null\0byte"], {}, "null byte"),
        (["words.txt"], {}, "--form"),
        (["in.jsonl", "in.csv"], {}, "different forms"),
        (["."], {"form": "short"}, "contains images, not short"),
        (["."], {}, "images need a question"),
        (["*.png"], {}, "images need a question"),
        (["*.ndjson"], {}, "No such file"),
        (["*.ndjson"], {"form": "short"}, "No such file"),
        (["photo.HEIC"], {}, "images need a question"),
        (["photo.DNG"], {}, "DNG files cannot be read; convert it: magick photo.DNG photo.jpg"),
        (["in.jsonl"], {"questions": ["?"]}, "have their own questions"),
        (["in.jsonl"], {"defaults": {"temperature": 5}}, "temperature: "),
        (["in.jsonl"], {"defaults": {"batch": "b"}}, "batch: not a field"),
        (["in.jsonl"], {"defaults": {"max_tokens": 5}}, "max_tokens: not a field"),
        (["/dev/null"], {"form": "parquet"}, "cannot read parquet from a pipe"),
    ],
)
def test_what_cannot_be_read_at_all_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: list[str], options: dict[str, Any], reason: str
) -> None:
    (tmp_path / "in.jsonl").write_text(SHORT)
    (tmp_path / "in.csv").write_text("id,image,question\n")
    (tmp_path / "words.txt").write_text("only words\n")
    (tmp_path / "photo.HEIC").touch()
    (tmp_path / "photo.DNG").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=reason):
        detect_source(inputs, **options)


def test_a_file_that_went_away_is_an_error_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(SHORT)
    source = detect_source([str(tmp_path / "in.jsonl")])
    (tmp_path / "in.jsonl").unlink()
    with pytest.raises(SettingsError, match="No such file"):
        next(read_rows(source))


def test_rows_of_several_files_are_found_from_their_own_folders_and_told_by_name(tmp_path: Path) -> None:
    for name, id in (("a", "1"), ("b", "2"), ("c", "1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "in.jsonl").write_text(json.dumps({"id": id, "image": "x.png", "question": "?"}) + "\n{")
    names = [f"{tmp_path}/{name}/in.jsonl" for name in "abc"]
    found = list(read_rows(detect_source(names)))
    assert [(row.number, isinstance(row, Row)) for row in found] == [(1, True), (2, False)] * 2 + [
        (1, False),
        (2, False),
    ]
    again, broken = found[-2:]
    assert isinstance(again, BadRow)
    assert isinstance(broken, BadRow)
    assert str(again.error) == f"{names[2]}: an earlier row has the same custom_id"
    assert str(broken.error) == f"{names[2]}: not JSON"


def test_defaults_are_plain_data_in_every_row(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(SHORT)
    source = detect_source([str(tmp_path / "in.jsonl")], defaults={"retry": RetryPolicy(attempts=7), "reuse": True})
    [row] = read_rows(source)
    assert isinstance(row, Row)
    assert row.fields["retry"] == {"attempts": 7, "base_s": 1.0, "cap_s": 60.0}
    assert row.digest()


def test_a_rows_digest_follows_what_is_asked_and_the_file_but_not_its_place(tmp_path: Path) -> None:
    def digest(line: dict[str, Any], before: str = "") -> str:
        (tmp_path / "in.jsonl").write_text(before + json.dumps({"image": "a.png", **line}))
        row = list(read_rows(detect_source([str(tmp_path / "in.jsonl")])))[-1]
        assert isinstance(row, Row)
        return row.digest()

    png = tmp_path / "a.png"
    png.write_bytes(b"one")
    os.utime(png, ns=(5, 5))
    first = digest({"id": "a", "question": "?", "seed": 1})
    assert digest({"seed": 1, "question": "?", "id": "a"}, before=SHORT.replace('"a"', '"b"') + "\n") == first
    changed = [digest({"id": "b", "question": "?"}), digest({"id": "a", "question": "!"})]
    os.utime(png, ns=(5, 6))
    changed.append(digest({"id": "a", "question": "?", "seed": 1}))
    png.write_bytes(b"three")
    os.utime(png, ns=(5, 5))
    changed.append(digest({"id": "a", "question": "?", "seed": 1}))
    png.unlink()
    changed.append(digest({"id": "a", "question": "?", "seed": 1}))
    assert len({first, *changed}) == 6


@pytest.mark.parametrize(
    ("name", "column", "said"),
    [("rows.csv", "colour", "--column colour: there are detail, "), ("rows.jsonl", "detail", "--column is for tables")],
)
def test_a_column_that_is_no_field_is_refused(tmp_path: Path, name: str, column: str, said: str) -> None:
    (tmp_path / name).write_text("id,image,question,colour\n" if name == "rows.csv" else '{"id": "a"}\n')
    with pytest.raises(SettingsError, match=said):
        detect_source([str(tmp_path / name)], columns=Columns(fields=(column,)))
