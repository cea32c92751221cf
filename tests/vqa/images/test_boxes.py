from __future__ import annotations

import io
import struct
import time

import pytest
from PIL import Image

from tests.corpus.formats import heif, jpeg2000
from vqa.errors import BadImage
from vqa.images.boxes import check_boxes, check_parts
from vqa.images.file import frame_count, read_header


def encoded(format: str, frames: int = 1) -> bytes:
    images = [Image.effect_noise((64, 48), 30 + number).convert("RGB") for number in range(frames)]
    buffer = io.BytesIO()
    images[0].save(buffer, format, **({"save_all": True, "append_images": images[1:]} if frames > 1 else {}))
    return buffer.getvalue()


@pytest.mark.parametrize("frames", [1, 3], ids=["still", "animated"])
def test_honest_avif_files_pass(frames: int) -> None:
    data = encoded("AVIF", frames)
    check_parts(data)

    assert (read_header(data).width, frame_count(data)) == (64, frames)


@pytest.mark.parametrize("data", [encoded("JPEG2000"), jpeg2000.codestream()], ids=["boxes", "stream"])
def test_honest_jpeg_2000_files_pass(data: bytes) -> None:
    check_boxes(data)

    assert read_header(data).format == "JPEG2000"


@pytest.mark.parametrize(
    "data",
    [
        heif.heif(items=60_000),
        heif.heif(extents=[(300, 200)] * 60_000),
        heif.heif(references=struct.pack(">I", 30_000) + b"dimg" + bytes(29_992)),
        heif.avif() + b"\0\0\0\x08free" * 1000,
        jpeg2000.jp2(64, 48, *[jpeg2000.box(b"free", b"")] * 1000),
        jpeg2000.jp2()[:12] + b"\0\0\0\x08free" * 100_000,
        jpeg2000.jp2(64, 48, jpeg2000.box(b"res ", b"\0\0\0\x08free" * 100_000)),
        jpeg2000.codestream()[:51] + b"\xff\x52\0\x02" * 100_000,
    ],
    ids=["items", "extents", "references", "boxes", "jp2-inner", "jp2-outer", "jp2-resolutions", "j2k-segments"],
)
def test_more_boxes_and_parts_than_any_image_has_are_refused_at_once(data: bytes) -> None:
    started = time.process_time()

    with pytest.raises(BadImage, match=r"over 1,000 (boxes|segments)|too many parts|resolutions"):
        read_header(data)
    assert time.process_time() - started < 0.05


@pytest.mark.parametrize(
    "rest", [b"", b"\0\0\0\1meta", b"\0\0\0\7meta", b"\0\0\0\0meta", b"\xff\xff\xff\xffmeta\0\0\0\0\0\0"]
)
def test_damage_is_left_to_the_reader(rest: bytes) -> None:
    check_parts(heif.avif()[:32] + rest)
    check_boxes(jpeg2000.jp2()[:12] + rest)
