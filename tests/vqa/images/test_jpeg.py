from __future__ import annotations

import io
import struct
import time
from collections.abc import Callable

import pytest
from PIL import Image, ImageCms

from vqa.errors import BadImage
from vqa.images.file import read_header
from vqa.images.jpeg import without_metadata
from vqa.images.orientation import orientation

XMP = b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='6'/>"


def jpeg(**options: object) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((40, 30), 60).convert("RGB").save(buffer, "JPEG", **options)
    return buffer.getvalue()


def exif(**tags: object) -> bytes:
    written = Image.Exif()
    for number, value in tags.items():
        written[int(number[1:], 16)] = value
    return written.tobytes()


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def before_all(data: bytes, *segments: bytes) -> bytes:
    """Put segments in front of all others."""
    return data[:2] + b"".join(segments) + data[2:]


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
def test_the_pixels_stay(mode: str, progressive: bool) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((40, 30), 60).convert(mode).save(buffer, "JPEG", progressive=progressive)
    data = before_all(buffer.getvalue(), segment(0xFE, b"a comment"), segment(0xED, b"Photoshop 3.0\0"))

    plain = without_metadata(data)

    assert len(plain) < len(data)
    assert opened(plain).tobytes() == opened(data).tobytes()


def test_the_orientation_and_the_profile_stay_and_the_rest_of_the_metadata_goes() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    data = jpeg(exif=exif(x112=8, x10E="x" * 5000), icc_profile=profile)

    plain = without_metadata(data)

    assert orientation(opened(plain)) == 8
    assert opened(plain).info["icc_profile"] == profile
    assert len(plain) < len(data) - 5000


def test_without_an_orientation_in_exif_that_of_xmp_is_seen() -> None:
    data = before_all(jpeg(exif=exif(x10E="a photo")), segment(0xE1, XMP))

    assert orientation(opened(without_metadata(data))) == 6


def test_the_first_of_several_exif_segments_counts() -> None:
    data = before_all(jpeg(exif=exif(x112=3)), segment(0xE1, exif(x112=8)))

    assert orientation(opened(without_metadata(data))) == 8


@pytest.mark.parametrize(
    "data",
    [b"\xff\xd8\xff", jpeg()[:50], jpeg()[:-50], before_all(jpeg(), b"\xff\x02")],
    ids=["start", "header", "pixels", "marker"],
)
def test_damage_is_not_hidden(data: bytes) -> None:
    plain = without_metadata(data)

    for one in (plain, data):
        with pytest.raises((OSError, SyntaxError)):
            opened(one).load()


@pytest.mark.parametrize(
    "between",
    [
        lambda: b"\xff" * 2_000_000,
        lambda: bytes(2_000_000),
        lambda: b"\xff\0" * 900,
        lambda: segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0" + bytes(65_000)) * 200,
        lambda: segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4" + bytes(6) * 9000) * 200,
    ],
    ids=["fill", "zeros", "escapes", "exif", "photoshop"],
)
def test_what_is_dear_to_skip_is_skipped_at_once(between: Callable[[], bytes]) -> None:
    data = before_all(jpeg(), segment(0xFE, b""), between())
    started = time.process_time()

    assert (read_header(data).width, read_header(data).height) == (40, 30)
    assert time.process_time() - started < 0.1


def test_more_segments_than_any_file_has_are_refused() -> None:
    with pytest.raises(BadImage, match=r"over 1,000 segments"):
        read_header(before_all(jpeg(), segment(0xFE, b"") * 1000))
