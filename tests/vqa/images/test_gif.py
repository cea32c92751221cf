from __future__ import annotations

import io
import time

import pytest
from PIL import Image

from vqa.errors import BadImage
from vqa.images.file import frame_count, read_header
from vqa.images.gif import gif_frames


def gif(frames: int, **options: object) -> bytes:
    images = [Image.effect_noise((30, 20), 40 + number) for number in range(frames)]
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], **options)
    return buffer.getvalue()


@pytest.mark.parametrize("frames", [1, 2, 30])
@pytest.mark.parametrize("options", [{}, {"comment": b"x" * 900, "loop": 0, "duration": 40}], ids=["bare", "extended"])
def test_frames_are_counted_as_pillow_counts_them(frames: int, options: dict[str, object]) -> None:
    data = gif(frames, **options)

    assert gif_frames(data) == frames
    assert frame_count(data) == getattr(Image.open(io.BytesIO(data)), "n_frames", 1)


@pytest.mark.parametrize("length", [6, 10, 13, 20, 300])
def test_a_file_that_ends_early_has_the_frames_that_begin_in_it(length: int) -> None:
    assert gif_frames(gif(3)[:length]) == 1


def test_a_million_frames_are_not_all_counted() -> None:
    data = b"GIF89a\1\0\1\0\x80\0\0" + bytes(6) + b",\0\0\0\0\1\0\1\0\0\2\2\x44\1\0" * 1_000_000
    started = time.process_time()

    assert 10_000 < gif_frames(data) < 1_000_000
    assert time.process_time() - started < 0.2


@pytest.mark.parametrize("block", [b"!\xfe\0", b"\0"], ids=["comments", "zeros"])
def test_blocks_without_end_before_the_first_frame_are_refused_at_once(block: bytes) -> None:
    started = time.process_time()

    with pytest.raises(BadImage, match="over 100,000 blocks before its first frame"):
        read_header(b"GIF89a\1\0\1\0\0\0\0" + block * 1_000_000)
    assert time.process_time() - started < 0.5
