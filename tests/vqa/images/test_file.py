"""Reading what a caller has: files, bytes and PIL images, each error by the name of its file."""

from __future__ import annotations

import io
import struct
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from vqa import BadImage
from vqa.images.file import Header, frame_count, open_image, read_header
from vqa.images.limits import FileLimits
from vqa.images.png import SIGNATURE, without_texts
from vqa.images.source import read_image

RED = Image.new("RGB", (40, 30), "red")
LIMITS = FileLimits(20 * 2**20, 10**6)


def encoded(image: Image.Image, format: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **how)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def with_chunks(chunks: Iterable[bytes], at_end: bool = False) -> bytes:
    png = encoded(RED, "PNG")
    at = len(png) - 12 if at_end else 33
    return png[:at] + b"".join(chunks) + png[at:]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_of_any_kind_are_an_image(kind: Any) -> None:
    data = encoded(RED, "PNG")
    assert read_image(kind(data)) == data


def test_an_open_file_is_read_from_where_it_is_and_after_writing_from_its_start() -> None:
    data = encoded(RED, "PNG")
    file = io.BytesIO(b"header" + data)
    file.seek(6)
    assert read_image(file) == data

    written = io.BytesIO()
    RED.save(written, "PNG")
    assert read_image(written) == written.getvalue()

    with tempfile.TemporaryFile() as on_disk:
        RED.save(on_disk, "PNG")
        assert read_image(on_disk) == data


def test_a_file_open_as_text_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(encoded(RED, "PNG"))
    with open(tmp_path / "red.png") as file, pytest.raises(BadImage, match=r"red\.png is open as text.*'rb'"):
        read_image(file)
    with pytest.raises(BadImage, match="open as text"):
        read_image(io.StringIO("text"))


def test_a_closed_file_is_refused() -> None:
    closed = io.BytesIO(encoded(RED, "PNG"))
    closed.close()
    with pytest.raises(BadImage, match="closed"):
        read_image(closed)


OTHERS = {
    "a.jpg": (b"", "the file is empty"),
    "b.jpg": (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "HEIC image cannot be read: it says no size"),
    "c.png": (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
    "d.jpg": (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    "e.png": (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
    "f.jpg": (b"<!DOCTYPE html><html>", "HTML"),
    "g.svg": (b"\n <svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    "h.png": (b"PK\x03\x04....", "ZIP"),
    "i.png": (b"\x89PNG\r\n\x1a\n" + bytes(40), "header|damaged"),
    "j.jpg": (b"no image", "not an image in one of the formats JPEG"),
    "l.ico": (b"\0\0\1\0\1\0", "an icon"),
    "k.mp4": (b"\0\0\0\x1cftypisom\0\0\0\0", "video"),
}


@pytest.mark.parametrize(("name", "data", "words"), [(name, *other) for name, other in OTHERS.items()])
def test_a_file_that_is_no_image_is_refused_by_its_name_and_what_it_is(
    tmp_path: Path, name: str, data: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)

    with open(path, "rb") as file:
        for source in (path, str(path), file):
            with pytest.raises(BadImage, match=rf"{name}: .*({words})"):
                read_image(source)


def test_a_pdf_document_is_taken_where_a_setting_says_so() -> None:
    with pytest.raises(BadImage, match="VQA_PDF=1"):
        read_header(b"%PDF-1.7", LIMITS)
    assert read_header(b"%PDF-1.7", replace(LIMITS, pdf=True)) == Header("PDF", 0, 0)


def test_no_bytes_are_called_empty() -> None:
    with pytest.raises(BadImage, match="empty"):
        open_image(b"", LIMITS)


def test_a_limit_is_told_with_the_name() -> None:
    with pytest.raises(BadImage, match=r"^red\.png: the image has .*VQA_IMAGE_MAX_BYTES"):
        read_header(encoded(RED, "PNG"), FileLimits(10, 10**6), "red.png")
    with pytest.raises(BadImage, match=r"^red\.png: the image has 40 x 30 .*VQA_IMAGE_MAX_PIXELS"):
        read_header(encoded(RED, "PNG"), FileLimits(10**6, 100), "red.png")


@pytest.mark.parametrize(
    "values",
    [
        np.arange(1200, dtype="<u2") * 50,
        np.arange(1200, dtype=">u2") * 50,
        np.arange(1200, dtype=np.int32) * 70_000 - 4_000_000,
        np.linspace(0, 1, 1200, dtype=np.float32),
    ],
    ids=["uint16", "uint16 big-endian", "int32", "float32"],
)
def test_deep_pixels_of_a_pil_image_are_kept(values: np.ndarray[Any, Any]) -> None:
    image = Image.fromarray(values.reshape(30, 40))

    again = Image.open(io.BytesIO(read_image(image)))

    assert np.array_equal(np.asarray(again).astype(values.dtype), values.reshape(30, 40))


@pytest.mark.parametrize(
    "path",
    ["1", "L", "LA", "LA La", "P", "RGBA P", "LA PA", "RGB", "RGBA", "RGBA RGBa", "RGBX", "CMYK", "YCbCr", "HSV"],
)
def test_a_pil_image_of_any_mode_looks_the_same_afterwards(path: str) -> None:
    image = RED
    for mode in path.split():
        image = image.convert(mode)

    again = Image.open(io.BytesIO(read_image(image)))

    before = image.convert("LA") if image.mode == "La" else image
    assert again.convert("RGBA").getpixel((3, 3)) == before.convert("RGBA").getpixel((3, 3))


def test_a_colour_profile_of_a_pil_image_is_kept() -> None:
    for mode in ("RGB", "CMYK"):
        image = RED.convert(mode)
        image.info["icc_profile"] = b"a profile"
        assert Image.open(io.BytesIO(read_image(image))).info["icc_profile"] == b"a profile"


def test_of_a_pil_image_the_current_frame_is_read() -> None:
    pages = Image.open(
        io.BytesIO(encoded(RED, "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9), "blue")]))
    )
    pages.seek(1)

    data = read_image(pages)

    assert Image.open(io.BytesIO(data)).size == (9, 9)
    assert frame_count(data) == 1


def test_a_pil_image_whose_file_ends_early_is_refused() -> None:
    with pytest.raises(BadImage, match="PIL image cannot be read"):
        read_image(Image.open(io.BytesIO(encoded(Image.effect_noise((90, 90), 50), "PNG")[:2000])))


def test_a_closed_pil_image_is_refused_with_the_reason() -> None:
    image = Image.open(io.BytesIO(encoded(RED, "PNG")))
    image.close()

    with pytest.raises(BadImage, match="Operation on closed image"):
        read_image(image)


@pytest.mark.parametrize(
    ("name", "value"), [("exif", "text"), ("Raw profile type exif", b"bytes"), ("transparency", 5)]
)
def test_a_pil_image_with_nonsense_beside_its_pixels_is_refused(name: str, value: object) -> None:
    image = RED.copy()
    image.info[name] = value

    with pytest.raises(BadImage, match=r"the PIL image cannot be read: \w"):
        read_image(image)


def tiff_of(bits: int, channels: int, sample_format: int) -> bytes:
    """A TIFF file with one pixel, as scientific programs write it."""
    tags = {256: 1, 257: 1, 258: bits, 259: 1, 262: 2, 273: 200, 277: channels, 278: 1, 279: 24, 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags.items())
    return (struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries).ljust(300, b"\0")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            tiff_of(32, 3, 3),
            r"3 channels with 32 bits floating point, .*convert it to 8 bits per channel",
        ),
        (tiff_of(64, 1, 3), "TIFF image of 1 channel with 64 bits floating point"),
        (tiff_of(32, 3, 1), "TIFF image of 3 channels with 32 bits each"),
        (tiff_of(7, 3, 1), "damaged, or of a kind that Pillow cannot read"),
    ],
)
def test_a_tiff_file_of_pixels_that_pillow_does_not_read_is_told_with_what_to_do(data: bytes, words: str) -> None:
    with pytest.raises(BadImage, match=words):
        open_image(data, LIMITS)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_frames_are_counted(format: str) -> None:
    more = [Image.new("RGB", (40, 30), colour) for colour in ("blue", "white")]

    assert frame_count(encoded(RED, format, save_all=True, append_images=more)) == 3
    assert frame_count(encoded(RED, format)) == 1


def test_what_is_no_frame_is_not_counted() -> None:
    assert frame_count(encoded(RED, "MPO", save_all=True, append_images=[RED.resize((9, 9))])) == 1
    assert frame_count(encoded(RED, "JPEG")) == frame_count(b"") == frame_count(b"no image") == 1
    assert frame_count(encoded(RED, "TIFF", save_all=True, append_images=[RED])) == 1


LONG = zlib.compress(bytes(3 * 2**20))
XMP = b"XML:com.adobe.xmp\0\1\0\0\0" + LONG
PROFILE = b"Raw profile type exif\0\0" + LONG


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        chunk(b"zTXt", b"workflow\0\0" + LONG),
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + LONG),
        chunk(b"tEXt", b"workflow\0" + b"x" * 3 * 2**20),
        chunk(b"iCCP", b"profile\0\0" + LONG),
        chunk(b"iTXt", XMP),
        chunk(b"zTXt", PROFILE),
        chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20 - 9))) * 70,
    ],
    ids=["zTXt", "iTXt", "tEXt", "iCCP", "XMP", "EXIF", "many"],
)
def test_a_png_file_with_long_texts_or_a_long_profile_is_its_pixels(text: bytes, at_end: bool) -> None:
    if at_end and b"iCCP" in text:
        return
    image = open_image(with_chunks([text], at_end), LIMITS)

    assert image.getpixel((3, 3)) == (255, 0, 0)


def test_what_a_png_file_says_of_its_orientation_and_colours_is_kept() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n 8\n0011\n", zip=True)
    info.add_itxt("XML:com.adobe.xmp", "<x/>")
    info.add_text("Comment", "of no use")
    data = encoded(RED, "PNG", pnginfo=info, icc_profile=b"a profile")

    kept = open_image(data, LIMITS).info

    assert kept.keys() >= {"Raw profile type exif", "xmp", "icc_profile"}
    assert "Comment" not in kept


def test_of_many_colour_profiles_one_is_inflated() -> None:
    profile = zlib.compress(bytes(2**20 - 9))
    many = with_chunks(chunk(b"iCCP", b"profile %d\0\0" % number + profile) for number in range(3000))

    assert without_texts(many) == with_chunks([chunk(b"iCCP", b"profile 0\0\0" + profile)])


@given(rest=st.binary(max_size=200), cut=st.integers(0, 200))
def test_texts_are_taken_out_of_anything(rest: bytes, cut: int) -> None:
    png = with_chunks([chunk(b"zTXt", b"a\0\0" + rest), chunk(b"iTXt", rest), chunk(b"iCCP", rest)])

    assert without_texts(png[:cut]) is not None
    assert without_texts(SIGNATURE + rest) is not None
    assert len(without_texts(png)) <= len(png)


def test_more_chunks_than_any_png_file_has_are_refused() -> None:
    with pytest.raises(BadImage, match=r"over 10,000 chunks"):
        read_header(with_chunks([chunk(b"tEXt", b"a\0b")] * 10_000))
