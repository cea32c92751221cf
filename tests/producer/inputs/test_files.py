"""Files as they lie there: compressed or not, torn, damaged, or with lines that nothing can hold."""

import gzip
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from producer import SettingsError
from producer.inputs import BadRow, Row, detect_source, read_rows
from producer.inputs.compression import decompressed, prepend
from producer.inputs.jsonl import NOT_UTF8, numbered_lines
from tests.producer.inputs.conftest import good
from vqa.errors import InvalidJob

#: before a frame, where parallel compressors tell their frames' sizes
SKIPPABLE = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"size"

PACKERS = {
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
    "gzip in members": lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:]),
    "zstd in frames": lambda data: SKIPPABLE + zstandard.compress(data[:7]) + zstandard.compress(data[7:]),
}


def lines(count: int) -> bytes:
    # seeds that do not repeat, so that the files stay long when packed
    rows = ({"id": f"q{at}", "image": "a.png", "question": "?", "seed": at * 7919**4 % 2**60} for at in range(count))
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize("how", PACKERS)
def test_a_packed_file_has_the_rows_of_the_plain_one_whatever_it_is_called(tmp_path: Path, how: str) -> None:
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.write_bytes(lines(2000))
    packed.write_bytes(PACKERS[how](lines(2000)))
    assert list(read_rows(detect_source([str(packed)]))) == list(read_rows(detect_source([str(plain)])))


@given(data=st.binary(max_size=300), how=st.sampled_from(sorted(PACKERS)))
def test_whatever_was_compressed_is_decompressed(data: bytes, how: str) -> None:
    assert decompressed(io.BytesIO(PACKERS[how](data)), "in").read() == data


@given(head=st.binary(max_size=9), rest=st.binary(max_size=9))
def test_a_stream_begins_again_with_what_was_read_of_it(head: bytes, rest: bytes) -> None:
    assert prepend(head, io.BytesIO(rest)).read() == head + rest


@pytest.mark.parametrize("how", PACKERS)
def test_a_torn_file_gives_the_rows_before_and_then_says_so(tmp_path: Path, how: str) -> None:
    file = tmp_path / "in.jsonl.packed"
    file.write_bytes(PACKERS[how](lines(20_000))[:-100])
    *before, last = read_rows(detect_source([str(file)]))
    assert len(before) > 10_000
    assert [row.custom_id for row in good(before)] == [f"q{at}" for at in range(len(before))]
    assert isinstance(last, BadRow)
    assert last.number == len(before) + 1
    assert "cannot read the rest of the file, it is truncated or damaged" in str(last.error)


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_a_damaged_file_is_never_read_as_a_whole_one(tmp_path: Path, how: str) -> None:
    file = tmp_path / "in.jsonl"
    packed = bytearray(PACKERS[how](lines(20_000)))
    packed[len(packed) // 2 :] = bytes(len(packed) - len(packed) // 2)
    file.write_bytes(packed)
    *_, last = read_rows(detect_source([str(file)]))
    assert isinstance(last, BadRow)
    assert "cannot read the rest of the file" in str(last.error)


@pytest.mark.parametrize(
    "packed",
    [b"\x1f\x8b\x08broken", b"\x28\xb5\x2f\xfd\xff\xff", gzip.compress(lines(9))[:12]],
    ids=["broken", "empty", "cut"],
)
def test_a_file_of_which_nothing_can_be_read_is_refused(tmp_path: Path, packed: bytes) -> None:
    (tmp_path / "in.jsonl.gz").write_bytes(packed)
    with pytest.raises(SettingsError, match="cannot read"):
        detect_source([str(tmp_path / "in.jsonl.gz")])


def test_bytes_that_are_not_utf8_spoil_their_line_alone(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    first, second = lines(2).splitlines(keepends=True)
    file.write_bytes(b"\xef\xbb\xbf" + first + b'{"id": "\xff"}\n\r\n' + second.rstrip(b"\n"))
    found = list(read_rows(detect_source([str(file)])))
    assert [row.number for row in found] == [1, 2, 4]
    assert [isinstance(row, Row) for row in found] == [True, False, True]
    assert isinstance(found[1], BadRow)
    assert str(found[1].error).startswith("not UTF-8; save the file as UTF-8, or convert it: iconv")


@given(
    written=st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=6),
    ended=st.booleans(),
)
def test_a_line_that_is_too_long_is_told_in_its_place(written: list[bytes], ended: bool) -> None:
    text = b"\n".join(written) + (b"\n" if ended else b"")
    found = list(numbered_lines(io.BufferedReader(io.BytesIO(text)), max_bytes=5))
    expected = text.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert [number for number, _ in found] == list(range(1, len(expected) + 1))
    for (number, line), whole in zip(found, expected, strict=True):
        if len(whole) > 5:
            assert isinstance(line, InvalidJob)
            assert str(line) == "the line is longer than 5 bytes"
        elif isinstance(line, str):
            assert line.rstrip("\n").encode() == (whole.removeprefix(b"\xef\xbb\xbf") if number == 1 else whole)
        else:
            assert str(line) == NOT_UTF8


def test_a_pipe_is_read_once_and_as_it_is_written(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    first, second = lines(2).splitlines(keepends=True)
    seen = threading.Event()
    in_time: list[bool] = []

    def write() -> None:
        with pipe.open("wb", buffering=0) as out:
            out.write(first)
            in_time.append(seen.wait(30))
            out.write(second)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        rows = read_rows(detect_source([str(pipe)]))
        assert next(rows).custom_id == "q0"
        seen.set()
        assert [row.custom_id for row in rows] == ["q1"]
    finally:
        seen.set()
        writer.join()
    assert in_time == [True]


@pytest.mark.parametrize(
    "packed", [lines(3), gzip.compress(lines(3)), zstandard.compress(lines(3))], ids=["plain", "gzip", "zstd"]
)
def test_standard_input_is_read_from_the_folder_where_the_command_runs(tmp_path: Path, packed: bytes) -> None:
    program = (
        "from producer.inputs import *\n"
        "for row in read_rows(detect_source(['-'])): print(row.custom_id, *image_sources(row))\n"
        "import sys; sys.stdin.buffer.read()"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        input=packed,
        capture_output=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        check=False,
    )
    assert ran.stdout.decode().splitlines() == [f"q{at} file:{tmp_path}/a.png" for at in range(3)], ran.stderr.decode()
