"""Tables: CSV and Parquet files, with the columns that people have."""

import csv
import gzip
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from producer import SettingsError
from producer.inputs import BadRow, Columns, Row, detect_source, image_sources, read_rows
from tests.producer.inputs.conftest import good, question


def rows_of(file: Path, **options: Any) -> list[Row | BadRow]:
    return list(read_rows(detect_source([str(file)], **options)))


def asked(rows: list[Row | BadRow]) -> list[tuple[str, tuple[str, ...], str]]:
    return [(row.custom_id, image_sources(row), question(row)) for row in good(rows)]


def test_a_csv_file_as_excel_writes_it(tmp_path: Path) -> None:
    file = tmp_path / "in.csv"
    text = 'image,price,id,question\r\na.png,1,q1,"Which one, ""left""\r\nor right?"\r\n\r\nb.png,2,q2,Ça va?\r\n'
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = rows_of(file, defaults={"max_new_tokens": 3})
    assert asked(found) == [
        ("q1", (f"file:{tmp_path}/a.png",), 'Which one, "left"\r\nor right?'),
        ("q2", (f"file:{tmp_path}/b.png",), "Ça va?"),
    ]
    assert [row.number for row in found] == [2, 5]
    assert good(found)[0].fields["max_new_tokens"] == 3


def test_columns_are_named_by_options_and_questions_given_for_all(tmp_path: Path) -> None:
    file = tmp_path / "in.tsv.gz"
    file.write_bytes(gzip.compress(b"key\tpath\nk1\ta,b.png\n"))
    found = rows_of(file, columns=Columns(id="key", image="path"), questions=["What?", "Why?"])
    png = (f"file:{tmp_path}/a,b.png",)
    assert asked(found) == [("k1", png, "What?"), ("k1#2", png, "Why?")]


@pytest.mark.parametrize(
    ("header", "reason"),
    [("id,image", "no column question"), ("", "no column image"), ("id,image,question,id", "more than one column id")],
)
def test_a_table_without_its_columns_is_refused(tmp_path: Path, header: str, reason: str) -> None:
    (tmp_path / "in.csv").write_text(f"{header}\nx,y,z\n")
    with pytest.raises(
        SettingsError, match=f"{reason}; name the columns with --id-column.*; the file has {(header or 'x')[:2]}"
    ):
        rows_of(tmp_path / "in.csv")


def test_records_that_are_none_are_told_by_their_line(tmp_path: Path) -> None:
    file = tmp_path / "in.csv"
    long = "x" * 200_000
    file.write_bytes(
        b"id,image,question\nq1,a.png\nq2,a.png,?,4\n,a.png,?\nq4,,?\nq5,\xff,?\nq6,ftp://e.org/a.png,?\n"
        + f"q7,a.png,{long}\nq7,a.png,?\n".encode()
        + b'q8,a.png,"never\nended'
    )
    found = rows_of(file)
    bad = {row.number: str(row.error) for row in found if isinstance(row, BadRow)}
    assert [row.number for row in found if isinstance(row, Row)] == [8]
    assert list(bad) == [2, 3, 4, 5, 6, 7, 9, 10]
    for number, reason in {2: "2 columns, but", 3: "4 columns", 4: "id: missing", 5: "empty", 6: "not UTF-8"}.items():
        assert reason in bad[number]
    assert "ftp: URLs are not supported" in bad[7]
    assert "same custom_id" in bad[9]
    assert "the quote that opens in the record of line 10 is not closed properly; 1 more lines" in bad[10]


def test_ids_that_are_named_by_an_option_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("image,question\na.png,?\n")
    with pytest.raises(SettingsError, match="no column key; name the columns with --id-column"):
        rows_of(tmp_path / "in.csv", columns=Columns(id="key"))


def test_without_a_column_id_rows_have_their_number(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("image,question\na.png,?\n\nb.png,?\n")
    assert [row.custom_id for row in good(rows_of(tmp_path / "a.csv"))] == ["2", "4"]
    both = list(read_rows(detect_source([str(tmp_path / "a.csv"), str(tmp_path / "b.csv")])))
    assert [row.custom_id for row in good(both)] == ["a.csv:2", "a.csv:4", "b.csv:2", "b.csv:4"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
@pytest.mark.parametrize("packed", [False, True])
def test_tables_of_spreadsheets_are_read_whatever_they_are_saved_as(
    tmp_path: Path, encoding: str, delimiter: str, packed: bool
) -> None:
    text = "\r\n".join(delimiter.join(line) for line in (("id", "image", "question"), ("1", "a.png", "Où? ✓ 😀")))
    data = ("\ufeff" * encoding.startswith("utf-16") + text).encode(encoding)
    file = tmp_path / ("in.csv.gz" if packed else "in.csv")
    file.write_bytes(gzip.compress(data) if packed else data)

    assert asked(rows_of(file)) == [("1", (f"file:{tmp_path}/a.png",), "Où? ✓ 😀")]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("id,image,question,prix €\n".encode("cp1252"), "line 1: not UTF-8; save the file as UTF-8, or convert it"),
        ("id,image,question\n".encode("utf-16-le"), "it seems, UTF-16; save the file as UTF-8"),
    ],
)
def test_a_table_in_another_encoding_is_refused_with_the_way_out(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "in.csv").write_bytes(data)
    with pytest.raises(SettingsError, match=reason):
        rows_of(tmp_path / "in.csv")


def test_lines_that_end_in_carriage_returns_alone_are_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"id,image,question\r1,a.png,?\r")
    with pytest.raises(SettingsError, match="its lines end in carriage returns alone; convert them: tr "):
        rows_of(tmp_path / "in.csv")


def test_half_a_surrogate_pair_in_utf16_spoils_its_line_alone(tmp_path: Path) -> None:
    text = "\ufeffid,image,question\n1,a.png,\ud83d\n2,b.png,?\n"
    (tmp_path / "in.csv").write_bytes(text.encode("utf-16-le", "surrogatepass"))
    bad, row = rows_of(tmp_path / "in.csv")
    assert isinstance(bad, BadRow)
    assert bad.number == 2
    assert isinstance(row, Row)
    assert row.custom_id == "2"


def test_utf16_that_breaks_off_is_told(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes("\ufeffid,image,question\n1,a.png,?\n2,b.png,?".encode("utf-16-le")[:-1])
    first, second = rows_of(tmp_path / "in.csv")[:1] + rows_of(tmp_path / "in.csv")[-1:]
    assert isinstance(first, Row)
    assert isinstance(second, BadRow)
    assert "cannot read the rest of the file" in str(second.error)


def test_the_lines_behind_an_open_quote_are_counted(tmp_path: Path) -> None:
    lines = ["id,image,question", *(f"{n},a.png,?" for n in range(2, 1001))]
    lines[3] = '4,a.png,"?'
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    *_, last = found = rows_of(tmp_path / "in.csv")

    assert len(found) == 3
    assert isinstance(last, BadRow)
    assert (last.number, last.swallowed) == (4, 996)
    assert "line 4 is not closed properly; 996 more lines, up to line 1000, belong to it" in str(last.error)


def test_an_open_quote_that_a_later_one_closes_is_counted_as_well(tmp_path: Path) -> None:
    text = 'id,image,question\n1,a.png,"?\n2,a.png,?\n3,a.png,"What, now?"\n4,a.png,?\n'
    (tmp_path / "in.csv").write_text(text)
    bad, good_row = rows_of(tmp_path / "in.csv")

    assert isinstance(bad, BadRow)
    assert (bad.number, bad.swallowed) == (2, 2)
    assert isinstance(good_row, Row)
    assert good_row.custom_id == "4"


plain = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)


@given(
    records=st.lists(st.tuples(plain, plain | st.just('a"\n,b\r\n"')), max_size=5, unique_by=lambda record: record[0])
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_the_csv_module_wrote_is_read(tmp_path: Path, records: list[tuple[str, str]]) -> None:
    file = tmp_path / "in.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([("id", "image", "question"), *((id, "a.png", text) for id, text in records)])
    found = rows_of(file)
    for row, (id, text) in zip(found, records, strict=True):
        if id.isprintable() and text.strip():
            assert isinstance(row, Row), row.error
            assert (row.custom_id, question(row)) == (id, text)
        else:
            assert isinstance(row, BadRow)


def write_parquet(file: Path, **columns: Any) -> Path:
    parquet.write_table(pyarrow.table(columns), file, row_group_size=100)
    return file


def test_a_parquet_file_with_paths(tmp_path: Path) -> None:
    count = range(250)
    file = write_parquet(
        tmp_path / "in.parquet",
        id=list(count),
        image=[f"{at}.png" for at in count],
        question=["What?" for _ in count],
        unused=[b"x" * 1000 for _ in count],
    )
    assert asked(rows_of(file)) == [(str(at), (f"file:{tmp_path}/{at}.png",), "What?") for at in count]


def test_a_parquet_file_with_images_in_it(tmp_path: Path, png: bytes) -> None:
    file = write_parquet(tmp_path / "any name", id=["a", "b", "c"], image=[png, b"no image", None])
    first, second, third = rows_of(file, questions=["What?"])
    assert isinstance(first, Row)
    assert [part.image for part in first.job("j", {}).images()] == [png]
    # whoever reads images sees what it is
    assert isinstance(second, Row)
    assert isinstance(third, BadRow)
    assert (third.number, third.custom_id) == (3, "c")


def test_a_parquet_record_may_have_a_list_of_images(tmp_path: Path, png: bytes) -> None:
    images = [[{"bytes": png, "path": None}, {"bytes": None, "path": "a.png"}], [], None]
    file = write_parquet(tmp_path / "in.pq", id=["a", "b", "c"], image=images)
    first, second, third = rows_of(file, questions=["What?"])
    assert isinstance(first, Row)
    assert image_sources(first)[1:] == (f"file:{tmp_path}/a.png",)
    assert len(list(first.job("j", {f"file:{tmp_path}/a.png": png}).images())) == 2
    assert isinstance(second, BadRow)
    assert "the list of images is empty" in str(second.error)
    assert isinstance(third, BadRow)


def test_ids_of_a_parquet_column_with_gaps_are_whole_numbers(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "in.pq", id=[1.0, None, float("nan"), 4.0], image=["a.png"] * 4)
    found = rows_of(file, questions=["What?"])
    assert [row.custom_id for row in found] == ["1", None, None, "4"]
    assert [str(row.error) for row in found if isinstance(row, BadRow)] == ["id: missing"] * 2


def test_decimal_ids_of_a_database_are_numbers(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "in.pq", id=[Decimal("7.00"), Decimal("2.50"), None], image=["a.png"] * 3)
    assert [row.custom_id for row in rows_of(file, questions=["What?"])] == ["7", "2.50", None]


def test_a_value_that_python_cannot_hold_spoils_its_record_alone(tmp_path: Path) -> None:
    times = pyarrow.array([1, None, 2_000], pyarrow.timestamp("ns"))
    file = write_parquet(tmp_path / "in.pq", id=["a", "b", "c"], image=["a.png"] * 3, question=times)
    found = rows_of(file)
    assert [row.number for row in found] == [1, 2, 3]
    assert isinstance(found[0], BadRow)
    assert "a value cannot be read: Nanosecond" in str(found[0].error)


def test_a_glob_of_shards_is_one_input_in_their_order(tmp_path: Path) -> None:
    for shard in (2, 0, 1):
        write_parquet(tmp_path / f"q-{shard}.parquet", id=[f"r{shard}"], image=["a.png"], question=["?"])
    (tmp_path / "notes.txt").write_text("no rows")
    source = detect_source([f"{tmp_path}/q-*.parquet"])
    assert source.form == "parquet"
    assert [row.custom_id for row in good(list(read_rows(source)))] == ["r0", "r1", "r2"]


def test_a_parquet_file_with_images_as_datasets_writes_them(tmp_path: Path, png: bytes) -> None:
    images = [{"bytes": png, "path": "old.png"}, {"bytes": None, "path": "a.png"}, {"bytes": None, "path": None}]
    file = write_parquet(tmp_path / "in.pq", id=["a", "b", "c"], image=images)
    first, second, third = rows_of(file, questions=["What?"])
    assert isinstance(first, Row)
    assert [part.image for part in first.job("j", {}).images()] == [png]
    assert isinstance(second, Row)
    assert image_sources(second) == (f"file:{tmp_path}/a.png",)
    assert isinstance(third, BadRow)


def test_text_in_a_parquet_file_that_is_not_utf8_spoils_its_record_alone(tmp_path: Path) -> None:
    damaged = pyarrow.array([b"What?", b"\xff", b"Why?"]).view(pyarrow.string())
    file = write_parquet(tmp_path / "in.parquet", id=["a", "b", "c"], image=["a.png"] * 3, question=damaged)
    found = rows_of(file)
    assert [isinstance(row, Row) for row in found] == [True, False, True]
    assert isinstance(found[1], BadRow)
    assert (found[1].number, str(found[1].error)) == (2, "not UTF-8")


def test_a_parquet_file_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "in.parquet", id=["a"], image=["a.png"], question=["?"])
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(SettingsError, match="as Parquet"):
        rows_of(file)


def test_a_parquet_file_that_is_damaged_inside_says_where(tmp_path: Path) -> None:
    count = range(300)
    file = write_parquet(
        tmp_path / "in.parquet", id=[f"id-{at}" for at in count], image=["a.png"] * 300, question=["?"] * 300
    )
    page = parquet.read_metadata(file).row_group(1).column(0).data_page_offset
    data = bytearray(file.read_bytes())
    data[page : page + 40] = b"\xff" * 40
    file.write_bytes(data)
    *before, last = rows_of(file)
    assert 64 <= len(good(before)) <= 128
    assert isinstance(last, BadRow)
    assert last.number == len(before) + 1
    assert "cannot read the rest of the file, it is damaged" in str(last.error)


def test_a_parquet_file_without_its_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no column image"):
        rows_of(write_parquet(tmp_path / "in.parquet", id=["a"], question=["?"]))
