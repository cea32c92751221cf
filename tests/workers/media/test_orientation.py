"""Images are set upright whoever wrote how they lie, given as a file or as a PIL image."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from vqa.images.source import read_image
from workers.media.limits import ImageLimits
from workers.media.source import decode

ORIENTATION = 0x112

#: GPSInfo, and tags that may hold a ratio, a text and a width
GPS, X_RESOLUTION, MAKE, WIDTH = 0x8825, 0x11A, 0x10F, 0x100

XMP = (
    b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF><rdf:Description tiff:Orientation=%s6%s/></rdf:RDF></x:xmpmeta>",
    b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><tiff:Orientation>%s6%s</tiff:Orientation></x:xmpmeta>",
)


def corners(mode: str = "RGB") -> Image.Image:
    """Dark in the top left, and light elsewhere; upright it is dark in the top right by orientation 6."""
    image = Image.new("RGB", (64, 48), (200, 220, 200))
    image.paste((20, 20, 60), (0, 0, 20, 16))
    if mode == "RGBA":
        image.putalpha(255)
        image.paste((0, 0, 0, 0), (50, 40, 64, 48))
    return image if image.mode == mode else image.convert(mode)


def encoded(image: Image.Image, format: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **how)
    return buffer.getvalue()


def exif(orientation: int = 6) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def raw_profile(kind: str) -> PngImagePlugin.PngInfo:
    """EXIF as ImageMagick writes it into PNG files."""
    data = exif().tobytes()
    info = PngImagePlugin.PngInfo()
    info.add_text(f"Raw profile type {kind}", f"\n{kind}\n{len(data):8}\n{data.hex()}\n", zip=True)
    return info


def xmp(number: int, quote: bytes = b'"') -> bytes:
    return XMP[number] % ((quote, quote) if number == 0 else (b"", b""))


def xmp_text(number: int) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp(number).decode())
    return info


def after_the_pixels(png: bytes, kind: bytes, content: bytes) -> bytes:
    """Insert a chunk before the last one."""
    chunk = len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
    return png[:-12] + chunk + png[-12:]


TURNED = {
    **{f"EXIF in {format}": encoded(corners(), format, exif=exif()) for format in ("JPEG", "PNG", "WEBP", "TIFF")},
    **{f"EXIF in {format} with alpha": encoded(corners("RGBA"), format, exif=exif()) for format in ("PNG", "WEBP")},
    "EXIF in MPO": encoded(corners(), "MPO", exif=exif(), save_all=True, append_images=[corners("RGB")]),
    "EXIF after the pixels": after_the_pixels(encoded(corners(), "PNG"), b"eXIf", exif().tobytes()[6:]),
    "ImageMagick": encoded(corners(), "PNG", pnginfo=raw_profile("exif")),
    "ImageMagick of old": encoded(corners(), "PNG", pnginfo=raw_profile("APP1")),
    "ImageMagick with alpha": encoded(corners("RGBA"), "PNG", pnginfo=raw_profile("exif")),
    "XMP in JPEG": encoded(corners(), "JPEG", xmp=xmp(0)),
    "XMP in quotes of the other kind": encoded(corners(), "JPEG", xmp=xmp(0, b"'")),
    "XMP in WebP": encoded(corners("RGBA"), "WEBP", xmp=xmp(1)),
    **{f"XMP {number} in PNG": encoded(corners("RGBA"), "PNG", pnginfo=xmp_text(number)) for number in (0, 1)},
    "XMP beside other EXIF": encoded(corners(), "WEBP", xmp=xmp(0), exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"),
    "XMP beside damaged EXIF": encoded(corners(), "WEBP", xmp=xmp(0), exif=b"Exif\0\0nonsense"),
    "16 bits": encoded(Image.fromarray(np.asarray(corners("L")).astype(np.uint16) * 257), "TIFF", exif=exif()),
}


def upright_corner(data: bytes) -> str:
    pixels = np.asarray(decode(data, ImageLimits(2**20, 10**6, 10**6))[0].image.convert("L")).astype(int)
    assert pixels.shape == (64, 48)
    places = {"top left": (3, 3), "top right": (3, 44), "bottom left": (60, 3), "bottom right": (60, 44)}
    return min(places, key=lambda place: pixels[places[place]])


@pytest.mark.parametrize("data", TURNED.values(), ids=TURNED.keys())
def test_a_turned_file_is_set_upright(data: bytes) -> None:
    assert upright_corner(data) == "top right"


@pytest.mark.parametrize("data", TURNED.values(), ids=TURNED.keys())
def test_a_turned_pil_image_is_set_upright(data: bytes) -> None:
    assert upright_corner(read_image(Image.open(io.BytesIO(data)))) == "top right"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_a_pil_image_is_seen_as_its_file_is(orientation: int, format: str) -> None:
    data = encoded(corners(), format, exif=exif(orientation))
    limits = ImageLimits(2**20, 10**6, 10**6)

    of_file, of_object = (decode(each, limits)[0].image for each in (data, read_image(Image.open(io.BytesIO(data)))))

    assert np.array_equal(np.asarray(of_file), np.asarray(of_object))


def test_a_photo_that_was_set_upright_and_one_that_was_converted_are_both_upright() -> None:
    photo = Image.open(io.BytesIO(TURNED["EXIF in JPEG"]))

    assert upright_corner(read_image(ImageOps.exif_transpose(photo))) == "top right"
    assert upright_corner(read_image(photo.convert("L"))) == "top right"


def ifd(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF of raw entries: tag, type, count and four bytes of value or offset."""
    body = b"".join(struct.pack(">HHI4s", *entry) for entry in entries)
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + body + bytes(16)


@pytest.mark.parametrize(
    "nonsense",
    [
        (MAKE, 3, 1, b"\xff\xff\0\0"),
        (WIDTH, 9, 1, b"\x80\0\0\0"),
        (X_RESOLUTION, 5, 1, b"\xff\xff\xff\xf0"),
        (GPS, 5, 1, b"\0\0\0\x08"),
        (0xFFFF, 99, 7, b"\xff" * 4),
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
# Pillow looks for a JPEG's resolution
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nonsense_beside_the_orientation_is_not_looked_at(format: str, nonsense: tuple[int, int, int, bytes]) -> None:
    data = encoded(corners(), format, exif=ifd(nonsense, (ORIENTATION, 3, 1, b"\0\x06\0\0")))

    assert upright_corner(data) == "top right"
    assert upright_corner(read_image(Image.open(io.BytesIO(data)))) == "top right"


@pytest.mark.parametrize("tag", [(ORIENTATION, 3, 1, b"\0\x63\0\0"), (ORIENTATION, 2, 3, b"6\0\0\0")])
def test_an_orientation_that_is_none_is_upright(tag: tuple[int, int, int, bytes]) -> None:
    data = encoded(corners().rotate(-90, expand=True), "JPEG", exif=ifd(tag))

    assert upright_corner(data) == "top right"
