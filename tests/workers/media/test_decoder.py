"""Real child processes, really killed, stopped and starved."""

from __future__ import annotations

import io
import logging
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from tests.worker_process import ROOT
from vqa.errors import BadImage, DeadlineExceeded, EngineError
from vqa.images.fit import Fit
from workers.engine.image import RGBImage
from workers.media.decoder import Decoder
from workers.media.limits import ImageLimits
from workers.media.source import decode

SOON = 60
MIB = 2**20
LIMITS = ImageLimits(20 * MIB, 50_000_000, 1024 * 1024, Fit(32, 64 * 64, 1024 * 1024))

_PARENT = """
import sys
from workers.media.decoder import Decoder
from workers.media.limits import ImageLimits
decoders = [Decoder(ImageLimits(20 * 2**20, 50_000_000, 10**6)) for _ in range(2)]
for decoder in decoders:
    decoder.wait_ready()
print(*(decoder.pid for decoder in decoders), flush=True)
with open(sys.argv[1], "rb") as file:
    data = file.read()
while True:
    decoders[0].decode(data)
"""


def encoded(image: Image.Image, format: str = "PNG", **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **how)
    return buffer.getvalue()


SMALL = encoded(Image.effect_noise((300, 200), 60))


@pytest.fixture(scope="module")
def slow() -> bytes:
    """An image that takes more than a second."""
    return encoded(Image.new("RGBA", (7000, 7000), (9, 9, 9, 100)))


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    decoder = Decoder(LIMITS)
    decoder.wait_ready()
    yield decoder
    decoder.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it has not come about"
        time.sleep(0.005)


def pid_of(decoder: Decoder) -> int:
    assert decoder.pid is not None
    return decoder.pid


def busy(pid: int, more_than_s: float) -> bool:
    try:
        return psutil.Process(pid).cpu_times().user > more_than_s
    except psutil.NoSuchProcess:
        return False


def kill_while_it_decodes(decoder: Decoder, number: int) -> int:
    """Send the signal to the decoder's child once it is far into the image; the child's pid."""
    pid = pid_of(decoder)
    # its start takes a fifth of that
    wait_until(lambda: busy(pid, 0.5))
    os.kill(pid, number)
    return pid


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def assert_is_small(photos: tuple[RGBImage, ...]) -> None:
    [photo] = photos
    [expected] = [decoded.image for decoded in decode(SMALL, LIMITS)]
    assert (photo.width, photo.height, photo.pixels) == (*expected.size, expected.tobytes())


def test_a_image_is_what_decoding_it_here_gives(decoder: Decoder) -> None:
    assert_is_small(decoder.decode(SMALL))


def test_its_name_is_that_of_the_bytes_and_the_size_that_it_was_given(decoder: Decoder) -> None:
    once, again, other = (
        decoder.decode(data)[0].digest for data in (SMALL, SMALL, encoded(Image.new("L", (300, 200))))
    )
    smaller = Decoder(ImageLimits(20 * MIB, 50_000_000, 1024 * 1024, Fit(32, 64 * 64, 128 * 128)))

    assert once == again != other
    assert smaller.decode(SMALL)[0].digest != once
    smaller.close()


def test_small_images_after_large_ones_are_their_own(decoder: Decoder, slow: bytes) -> None:
    webp = encoded(Image.new("RGBA", (3000, 3000), (9, 9, 9, 100)), "WEBP", lossless=True, method=0)
    for data in (slow, webp, SMALL, encoded(Image.new("RGB", (2000, 1500), "red"), "BMP"), SMALL):
        photos = decoder.decode(data)

    assert_is_small(photos)


def without_palette() -> bytes:
    """A palette PNG file without a palette, which breaks an assertion of Pillow's."""
    data = encoded(Image.new("P", (4, 4)))
    at = data.index(b"PLTE") - 4
    return data[:at] + data[at + 12 + int.from_bytes(data[at : at + 4], "big") :]


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "empty"), (SMALL[:3000], "cannot be decoded"), (without_palette(), "PNG image cannot be decoded")],
    ids=["empty", "truncated", "no palette"],
)
def test_a_bad_image_is_told_by_name_and_costs_no_child(decoder: Decoder, data: bytes, words: str) -> None:
    before = decoder.pid

    with pytest.raises(BadImage, match=words):
        decoder.decode(data)
    assert_is_small(decoder.decode(SMALL))
    assert decoder.pid == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_child_killed_at_a_image_is_replaced_and_the_image_comes(
    decoder: Decoder, slow: bytes, pool: ThreadPoolExecutor, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "workers.media.decoder")
    asked = pool.submit(decoder.decode, slow)

    killed = kill_while_it_decodes(decoder, number)

    [photo] = asked.result(SOON)
    assert (photo.width, photo.height) == (1024, 1024)
    assert decoder.pid != killed
    assert is_gone(killed)
    assert [record.message.count("\n") for record in caplog.records] == [0]
    assert signal.Signals(number).name in caplog.text


def crash_twice(decoder: Decoder, slow: bytes, pool: ThreadPoolExecutor, number: int) -> Future[tuple[RGBImage, ...]]:
    asked = pool.submit(decoder.decode, slow)
    killed = kill_while_it_decodes(decoder, number)
    wait_until(lambda: decoder.pid not in {None, killed})
    kill_while_it_decodes(decoder, number)
    return asked


def test_a_image_that_crashes_its_decoder_twice_is_refused_and_the_next_one_comes(
    decoder: Decoder, slow: bytes, pool: ThreadPoolExecutor
) -> None:
    asked = crash_twice(decoder, slow, pool, signal.SIGSEGV)

    with pytest.raises(BadImage, match="crashed its decoder twice: the process was killed by SIGSEGV"):
        asked.result(SOON)
    assert_is_small(decoder.decode(SMALL))


def test_a_child_that_is_killed_twice_is_not_taken_for_the_images_fault(
    decoder: Decoder, slow: bytes, pool: ThreadPoolExecutor
) -> None:
    asked = crash_twice(decoder, slow, pool, signal.SIGKILL)

    assert asked.result(SOON)[0].source_width == 7000


def test_a_child_that_is_killed_at_every_try_is_worth_another_attempt(
    decoder: Decoder, slow: bytes, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.media.decoder._PAUSES_S", (0.0, 0.0))
    asked = crash_twice(decoder, slow, pool, signal.SIGKILL)

    with pytest.raises(EngineError, match="out of memory: 2 tries at an image failed; last, the process was killed by"):
        asked.result(SOON)
    assert_is_small(decoder.decode(SMALL))


def scan_bomb(scans: int) -> bytes:
    """A progressive JPEG that repeats its last scan."""
    data = encoded(Image.new("L", (2000, 2000), 99), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * scans + data[-2:]


def test_an_image_that_is_cheap_to_send_and_dear_to_decode_is_refused_in_seconds(decoder: Decoder) -> None:
    hung, children = pid_of(decoder), psutil.Process().cpu_times().children_user
    assert decoder.decode(scan_bomb(2))[0].source_width == 2000

    with pytest.raises(BadImage, match=r"takes too long: the limit is 3 s of computing time, and 0\.1 s for each mega"):
        decoder.decode(scan_bomb(5000))

    assert is_gone(hung)
    # its start, the limit, and the one before
    assert psutil.Process().cpu_times().children_user - children < 5
    assert_is_small(decoder.decode(SMALL))


def tile_bomb(side: int) -> bytes:
    """A TIFF image of 8 x 8 pixels in a tile of `side` x `side`."""
    tile = zlib.compressobj(9)
    data = b"".join([*(tile.compress(bytes(side)) for _ in range(side)), tile.flush()])
    tags = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 200, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return (struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries).ljust(200, b"\0") + data


def test_an_image_gets_no_more_memory_than_its_pixels_need(decoder: Decoder) -> None:
    child = pid_of(decoder)
    assert decoder.decode(tile_bomb(1024))[0].source_width == 8

    with pytest.raises(BadImage, match="TIFF image cannot be decoded"):
        decoder.decode(tile_bomb(20_000))

    assert_is_small(decoder.decode(SMALL))
    assert decoder.pid == child


def test_an_image_waits_until_there_is_memory_for_it(decoder: Decoder) -> None:
    asked: list[int] = []

    @contextmanager
    def admit(needed: int, count: int) -> Iterator[None]:
        asked.append(needed)
        if len(asked) == 3:
            raise DeadlineExceeded("too late")
        yield

    assert_is_small(decoder.decode(SMALL, admit))
    # an image that is none takes no memory
    with pytest.raises(BadImage):
        decoder.decode(b"no image", admit)
    decoder.decode(encoded(Image.new("RGBA", (300, 200))), admit)
    with pytest.raises(DeadlineExceeded):
        decoder.decode(SMALL, admit)

    assert_is_small(decoder.decode(SMALL))
    plain, clear = asked[:2]
    assert 60_000 < plain < clear < 3_000_000


def test_a_child_that_died_between_two_images_is_nobodys_fault(
    decoder: Decoder, caplog: pytest.LogCaptureFixture
) -> None:
    pid = pid_of(decoder)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_gone(pid))

    assert_is_small(decoder.decode(SMALL))
    assert not caplog.records


def test_a_child_that_hangs_is_ended_and_its_image_refused_at_the_first_try() -> None:
    decoder = Decoder(LIMITS, timeout_s=0.5)
    decoder.wait_ready()
    hung = pid_of(decoder)
    os.kill(hung, signal.SIGSTOP)

    with pytest.raises(BadImage, match=r"took over 0\.5 s"):
        decoder.decode(SMALL)
    assert is_gone(hung)
    decoder.wait_ready()
    assert decoder.pid != hung
    decoder.close()


def test_a_child_that_hangs_ends_by_itself_when_nobody_else_does_it(decoder: Decoder) -> None:
    # what its own alarm sends, five seconds after its parent's patience
    os.kill(pid_of(decoder), signal.SIGALRM)

    wait_until(lambda: is_gone(pid_of(decoder)))


def test_memory_that_runs_out_in_a_child_is_worth_another_attempt(decoder: Decoder, slow: bytes) -> None:
    child = psutil.Process(pid_of(decoder))
    assert child.rlimit(psutil.RLIMIT_DATA) == (LIMITS.memory_bytes, LIMITS.memory_bytes)
    child.rlimit(psutil.RLIMIT_DATA, (64 * MIB, 64 * MIB))

    with pytest.raises(EngineError, match="memory"):
        decoder.decode(slow)
    assert_is_small(decoder.decode(SMALL))
    assert decoder.pid == child.pid


def test_memory_that_runs_out_at_an_images_header_is_worth_another_attempt(decoder: Decoder) -> None:
    data = encoded(Image.new("L", (4, 4)), "TIFF", tiffinfo={700: bytes(15 * MIB)})
    psutil.Process(pid_of(decoder)).rlimit(psutil.RLIMIT_DATA, (50 * MIB, 50 * MIB))

    with pytest.raises(EngineError, match="memory"):
        decoder.decode(data)


def test_where_memory_is_short_a_child_goes_before_its_parent_and_leaves_no_image(decoder: Decoder) -> None:
    assert Path(f"/proc/{decoder.pid}/oom_score_adj").read_text() == "1000\n"
    assert psutil.Process(pid_of(decoder)).rlimit(psutil.RLIMIT_CORE) == (0, 0)


def test_the_file_in_memory_does_not_stay_as_large_as_the_largest_image(decoder: Decoder) -> None:
    decoder.decode(encoded(Image.new("RGB", (2400, 2400), "red"), "BMP"))

    files = Path(f"/proc/{decoder.pid}/fd").iterdir()
    [size] = [file.stat().st_size for file in files if "vqa-image" in str(file.readlink())]
    assert size < 8 * MIB


def test_signals_to_the_workers_whole_group_leave_the_child_to_its_worker(decoder: Decoder) -> None:
    pid = pid_of(decoder)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)

    assert_is_small(decoder.decode(SMALL))
    assert decoder.pid == pid
    assert os.getpgid(pid) == pid


def test_a_child_has_no_passwords_and_none_of_the_workers_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQA_REDIS_URL", "redis://:secret@127.0.0.1/0")
    monkeypatch.setenv("HF_TOKEN", "secret")
    decoder = Decoder(LIMITS)
    decoder.wait_ready()
    about = Path(f"/proc/{decoder.pid}")
    environment, libraries = (about / "environ").read_bytes(), (about / "maps").read_text()
    decoder.close()

    assert b"secret" not in environment
    assert "_imaging" in libraries
    assert not [name for name in ("torch", "numpy", "pydantic") if name in libraries]


def test_a_closed_decoder_leaves_no_child_and_lets_the_job_go_to_another_worker(decoder: Decoder) -> None:
    pid = pid_of(decoder)
    decoder.close()
    decoder.close()

    assert is_gone(pid)
    with pytest.raises(EngineError, match="stopping"):
        decoder.decode(SMALL)


def test_closing_ends_what_is_being_decoded(decoder: Decoder, slow: bytes, pool: ThreadPoolExecutor) -> None:
    pid = pid_of(decoder)
    asked = pool.submit(decoder.decode, slow)
    wait_until(lambda: busy(pid, 0.5))

    decoder.close()

    with pytest.raises(EngineError, match="stopping"):
        asked.result(SOON)
    assert is_gone(pid)


def test_no_child_is_started_by_a_decoder_that_closes_meanwhile(pool: ThreadPoolExecutor) -> None:
    for _ in range(10):
        decoder = Decoder(LIMITS)
        asked = pool.submit(decoder.decode, SMALL)
        threading.Timer(0.05, decoder.close).start()

        error = asked.exception(SOON)

        assert error is None or str(error) == "the worker is stopping"
        decoder.close()
        assert decoder.pid is None


def test_a_child_that_cannot_start_is_not_the_images_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "PIL").mkdir()
    (tmp_path / "PIL" / "__init__.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    decoder = Decoder(LIMITS)

    with pytest.raises(EngineError, match="does not start: it exited with status 3"):
        decoder.decode(SMALL)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(EngineError, match="No such file"):
        decoder.decode(SMALL)
    decoder.close()


def test_a_parent_that_is_killed_leaves_no_child_idle_or_at_work(slow: bytes, tmp_path: Path) -> None:
    (tmp_path / "slow").write_bytes(slow)
    command = [sys.executable, "-c", _PARENT, str(tmp_path / "slow")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        working, idle = map(int, parent.stdout.readline().split())
        wait_until(lambda: busy(working, 0.5))
        parent.kill()

    wait_until(lambda: is_gone(idle))
    wait_until(lambda: is_gone(working))


def test_what_a_reader_says_of_damage_is_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    buffer = io.BytesIO()
    Image.new("1", (400, 300)).save(buffer, "TIFF", compression="group4", strip_size=10**6)
    data = bytearray(buffer.getvalue())
    data[8:200] = bytes(7 * at % 256 for at in range(192))
    decoder = Decoder(LIMITS)
    for _ in range(2):
        with suppress(BadImage):
            decoder.decode(bytes(data))
    decoder.close()

    assert capfd.readouterr() == ("", "")
