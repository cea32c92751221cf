"""Files of lines: whatever ends the writer, the whole parts are read."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producer.bulk.output.codec import codec_for, repair
from producer.bulk.output.files import LineFile, Outputs

NAMES = ["out.jsonl", "out.jsonl.gz", "out.jsonl.zst"]

parts = st.lists(st.lists(st.text(max_size=20).map(json.dumps), min_size=1, max_size=3), min_size=1, max_size=4)


def encoded(part: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in part).encode()


@pytest.mark.parametrize("name", NAMES)
@given(parts=parts, cut=st.integers(1, 200), noise=st.binary(max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_a_torn_end_costs_no_line_before_it(
    tmp_path: Path, name: str, parts: list[list[str]], cut: int, noise: bytes
) -> None:
    path = tmp_path / name
    codec = codec_for(path)
    packed = [codec.compress(encoded(part)) for part in parts]
    *whole, last = packed
    torn = last[: max(0, len(last) - cut)]
    path.write_bytes(b"".join(whole) + torn)
    repair(path, codec)
    with codec.open(path) as file:
        left = file.read()
    if name == "out.jsonl":
        # of lines as they are, those of the last part that are whole stay, too
        assert left == b"".join(whole) + torn[: torn.rfind(b"\n") + 1]
    else:
        assert left == b"".join(map(encoded, parts[:-1]))


@pytest.mark.parametrize("name", NAMES)
def test_a_repaired_file_is_gone_on_with(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    codec = codec_for(path)
    path.write_bytes(codec.compress(b'{"a": 1}\n') + codec.compress(b'{"b": 2}\n')[:-2])
    file = LineFile(path)
    file.add(b'{"c": 3}\n')
    file.add(b'{"d": 4}\n')
    file.commit()
    file.close()
    with codec.open(path) as lines:
        assert list(lines) == [b'{"a": 1}\n', b'{"c": 3}\n', b'{"d": 4}\n']


@pytest.mark.parametrize("name", NAMES[1:])
def test_other_tools_read_what_is_written(tmp_path: Path, name: str) -> None:
    import gzip

    import zstandard

    file = LineFile(tmp_path / name)
    for number in range(3):
        file.add(f"{number}\n".encode())
        file.commit()
    file.close()
    data = (tmp_path / name).read_bytes()
    if name.endswith(".gz"):
        assert gzip.decompress(data) == b"0\n1\n2\n"
    else:
        reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
        assert reader.read() == b"0\n1\n2\n"


def test_a_full_disk_leaves_no_half_of_a_part(tmp_path: Path) -> None:
    import resource
    import signal

    path = tmp_path / "out.jsonl"
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = LineFile(path)
    try:
        file.add(b"first\n")
        file.commit()
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        file.add(b"longer than what is left\n")
        with pytest.raises(OSError, match="File too large"):
            file.commit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert path.read_bytes() == b"first\n"
    file.commit()
    file.close()
    assert path.read_bytes() == b"first\nlonger than what is left\n"


def test_lines_wait_for_a_commit_and_many_are_one(tmp_path: Path) -> None:
    out, err = LineFile(tmp_path / "out.jsonl.gz"), LineFile(tmp_path / "err.jsonl")
    out.flush_interval_s = 3600
    outputs = Outputs(out, err)
    out.add(b"1\n")
    assert not outputs.due
    err.add(b"x" * 2**21 + b"\n")
    assert outputs.due
    outputs.commit()
    assert not outputs.due
    assert os.path.getsize(tmp_path / "err.jsonl") == 2**21 + 1
    out.close()
    err.close()
