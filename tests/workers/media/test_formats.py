"""HEIC, AVIF and JPEG 2000: upright, whole or refused, and told by their first bytes."""

from __future__ import annotations

import builtins
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.heic import heic
from vqa.errors import BadImage
from vqa.images.file import Header, read_header
from vqa.images.formats import format_of
from vqa.images.limits import FileLimits
from workers.media.limits import ImageLimits
from workers.media.source import decode

LIMITS = ImageLimits(2**20, 10**6, 10**6)
ORIENTATION = 0x112


def corner(size: tuple[int, int] = (96, 64)) -> Image.Image:
    """White, with a red upper left corner."""
    image = Image.new("RGB", size, "white")
    image.paste((255, 0, 0), (0, 0, size[0] // 2, size[1] // 2))
    return image


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def encoded(format: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    corner().save(buffer, format, **how)
    return buffer.getvalue()


def red_corner(data: bytes) -> tuple[int, int, str]:
    """Return width, height and the corner that is red."""
    [decoded] = decode(data, LIMITS)
    pixels = np.asarray(decoded.image).astype(int)
    places = {"top left": (3, 3), "top right": (3, -4), "bottom left": (-4, 3), "bottom right": (-4, -4)}
    corner = min(places, key=lambda place: int(pixels[places[place]][1]))
    return decoded.source_width, decoded.source_height, corner


@pytest.fixture
def photo() -> bytes:
    for package in ("pi_heif", "av"):
        pytest.importorskip(package)
    return heic(corner())


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        (0, (96, 64, "top left")),
        (1, (64, 96, "bottom left")),
        (2, (96, 64, "bottom right")),
        (3, (64, 96, "top right")),
    ],
    ids=["upright", "left", "over", "right"],
)
def test_heic_is_turned_once_whatever_its_exif_says(turns: int, expected: tuple[int, int, str], photo: bytes) -> None:
    assert red_corner(heic(corner(), turns, exif(6).tobytes()[6:])) == expected


def test_avif_is_turned_once() -> None:
    # Pillow writes the turn beside the EXIF
    assert red_corner(encoded("AVIF", exif=exif(6))) == (64, 96, "top right")


def test_a_producer_reads_the_size_of_heic_without_the_extra(photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    without_heif(monkeypatch)

    assert read_header(photo, FileLimits(2**20, 10**6)) == Header("HEIF", 96, 64)
    with pytest.raises(BadImage, match="VQA_IMAGE_MAX_PIXELS"):
        read_header(photo, FileLimits(2**20, 6000))


def test_without_the_extra_the_workers_error_names_it(photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    without_heif(monkeypatch)

    with pytest.raises(BadImage, match=r"a HEIC image, which this worker cannot read; .*vqa-queue\[heic\]"):
        decode(photo, LIMITS)


def without_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **how: Any) -> Any:
        if name == "pi_heif":
            raise ImportError(name)
        return real(name, *args, **how)

    monkeypatch.setattr(builtins, "__import__", without)


@pytest.mark.parametrize("part", [0.3, 0.7, 0.97], ids=str)
@pytest.mark.parametrize("format", ["HEIC", "AVIF", "JPEG2000"])
def test_a_file_that_ends_early_is_refused(format: str, part: float, photo: bytes) -> None:
    data = photo if format == "HEIC" else encoded(format)

    with pytest.raises(BadImage):
        decode(data[: int(part * len(data))], LIMITS)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "AVIF"),
        (b"\0\0\0\x14ftypavis\0\0\0\0avis", "AVIF"),
        (b"\0\0\0\x14ftypisom\0\0\0\0mp41", None),
        (b"%!PS-Adobe-3.0 EPSF-3.0", None),
        (b"\0\0\1\0\1\0", None),
        (b"GIF87a", "GIF"),
        (b"MM\0+", "TIFF"),
        (b"\xff\x4f\xff\x51", "JPEG2000"),
        (b" %PDF-1.7", None),
    ],
    ids=["HEIC in mif1", "AVIF in mif1", "AVIF sequence", "MP4", "EPS", "ICO", "GIF87a", "BigTIFF", "J2K", "late PDF"],
)
def test_formats_are_told_by_the_first_bytes(start: bytes, name: str | None) -> None:
    found = format_of(start)
    assert (found and found.name) == name
