"""Frames on a socket pair."""

import socket
import struct
from collections.abc import Iterator
from threading import Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.process.frames import AHEAD, MOST_JSON, MOST_RAW, BrokenFrame, FrameReader, frame, send

FRAMES = st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.binary(max_size=300)), max_size=20)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


@given(frames=FRAMES, ahead=st.sampled_from([0, 1, 64, AHEAD]))
@settings(deadline=None)
def test_frames_are_read_as_they_were_sent(frames: list[tuple[bytes, bytes]], ahead: int) -> None:
    near, far = socket.socketpair()
    with near, far:
        send(near, [buffer for message, raw in frames for buffer in frame(message, raw)])
        near.shutdown(socket.SHUT_WR)
        reader = FrameReader(far, ahead)
        assert list(iter(reader.read, None)) == frames


@pytest.mark.parametrize("ahead", [0, AHEAD], ids=["exactly", "ahead"])
def test_more_than_a_socket_holds_is_read_whole(pair: tuple[socket.socket, socket.socket], ahead: int) -> None:
    near, far = pair
    frames = [(b"small", b""), (b"image", bytes(range(256)) * 20_000), (b"j" * 1_000_000, b""), (b"last", b"raw")] * 2
    some = frames + [(b"x", b"")] * 1500
    buffers = [buffer for each in some for buffer in frame(*each)]
    sender = Thread(target=send, args=(near, buffers))
    sender.start()
    reader = FrameReader(far, ahead)
    assert [reader.read() for _ in some] == some
    sender.join()


@pytest.mark.parametrize(
    ("message", "raw"),
    [(0, 0), (MOST_JSON + 1, 0), (1, MOST_RAW + 1), (2**32 - 1, 2**32 - 1)],
    ids=["empty", "large-json", "large-raw", "ones"],
)
def test_sizes_out_of_range_are_refused_before_anything_is_read(
    pair: tuple[socket.socket, socket.socket], message: int, raw: int
) -> None:
    near, far = pair
    near.sendall(struct.pack("!II", message, raw))
    with pytest.raises(BrokenFrame, match=f"a frame of {message} and {raw} bytes"):
        FrameReader(far).read()


@pytest.mark.parametrize("cut", [1, 8, 10, 14], ids=["sizes", "no-json", "json", "raw"])
def test_a_frame_that_is_cut_off_is_the_end(pair: tuple[socket.socket, socket.socket], cut: int) -> None:
    near, far = pair
    near.sendall(b"".join(frame(b"12345", b"678"))[:cut])
    near.close()
    assert FrameReader(far).read() is None
