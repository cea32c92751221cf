from __future__ import annotations

import contextlib
import functools
import io
import json
import struct
import time
import zlib
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

import workers.media.image
import workers.media.source
from vqa.errors import BadImage, EngineError
from vqa.images.fit import Fit
from workers.media.limits import ImageLimits

MIB = 2**20
RED, BLUE = (255, 0, 0), (0, 0, 255)
ORIENTATION = 0x112


def limits(useful_pixels: int = 1024 * 1024, fit: Fit | None = None) -> ImageLimits:
    return ImageLimits(20 * MIB, 50_000_000, useful_pixels, fit)


def decode(data: bytes, limits: ImageLimits) -> Image.Image:
    [decoded] = workers.media.source.decode(data, limits)
    return decoded.image


def encoded(image: Image.Image, format: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **how)
    return buffer.getvalue()


def halves(mode: str = "RGB", size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image.convert(mode)


def near(pixel: Any, colour: tuple[int, ...], by: int = 4) -> bool:
    return all(abs(one - other) <= by for one, other in zip(pixel, colour, strict=True))


@pytest.mark.parametrize(
    ("format", "mode"),
    [
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("PNG", "RGB"),
        ("PNG", "P"),
        ("PNG", "RGBA"),
        ("WEBP", "RGB"),
        ("GIF", "P"),
        ("BMP", "RGB"),
        ("BMP", "P"),
        ("TIFF", "RGB"),
        ("TIFF", "CMYK"),
        ("TIFF", "P"),
        ("TIFF", "RGBA"),
    ],
)
@pytest.mark.parametrize("useful_pixels", [1024 * 1024, 300])
def test_a_image_of_each_format_and_mode_is_seen_as_it_is(format: str, mode: str, useful_pixels: int) -> None:
    photo = decode(encoded(halves(mode), format), limits(useful_pixels))

    assert photo.mode == "RGB"
    assert near(photo.getpixel((3, 3)), RED)
    assert near(photo.getpixel((photo.width - 3, 3)), BLUE)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16"])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_grey_is_grey(format: str, mode: str) -> None:
    deep = mode == "I;16"
    grey = Image.new(mode, (40, 40), 65_535 if deep else 255 if mode != "LA" else (255, 255))
    grey.paste(0 if mode != "LA" else (0, 255), (0, 0, 20, 40))

    photo = decode(encoded(grey, format), limits())

    assert photo.getpixel((2, 2)) == (0, 0, 0)
    assert photo.getpixel((30, 2)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("mode", "value", "expected"), [("I;16", 32_896, 128), ("F", 0.5, 127), ("F", 128.0, 128), ("I", 128, 128)]
)
def test_deep_pixels_are_scaled_and_not_clipped(mode: str, value: float, expected: int) -> None:
    photo = decode(encoded(Image.new(mode, (40, 40), value), "TIFF"), limits())

    assert near(photo.getpixel((2, 2)), (expected,) * 3, by=1)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_is_over_white(format: str) -> None:
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (20, 0, 40, 40))

    photo = decode(encoded(clear, format), limits())

    assert near(photo.getpixel((2, 2)), (255, 255, 255))
    assert near(photo.getpixel((36, 2)), BLUE)


def test_a_transparent_colour_is_over_white_whatever_the_size() -> None:
    data = encoded(halves(size=(900, 700)), "PNG", transparency=RED)

    for fit in (None, Fit(32, 64 * 64, 256 * 256)):
        assert near(decode(data, limits(fit=fit)).getpixel((3, 3)), (255, 255, 255))


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_palette_with_a_transparent_colour_is_over_white(format: str) -> None:
    image = Image.new("P", (10, 10), 0)
    image.putpalette([*RED, *BLUE])

    photo = decode(encoded(image, format, transparency=0), limits())

    assert photo.getpixel((2, 2)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_several_frames_it_is_the_first(format: str) -> None:
    second = Image.new("RGB", (60, 40), (0, 255, 0))

    photo = decode(encoded(halves(), format, save_all=True, append_images=[second]), limits())

    assert near(photo.getpixel((3, 3)), RED)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("useful_pixels", [1024 * 1024, 300])
def test_a_turned_image_is_set_upright(format: str, mode: str, useful_pixels: int) -> None:
    if (format, mode) == ("JPEG", "RGBA"):
        return
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    top, bottom = (76, 29) if mode == "L" else (RED[0], BLUE[0])

    photo = decode(encoded(halves(mode, (120, 80)), format, exif=exif), limits(useful_pixels))

    # a quarter turn clockwise: what was left is on top
    assert photo.height > photo.width
    assert near(photo.getpixel((3, 3))[:1], (top,))
    assert near(photo.getpixel((3, photo.height - 3))[:1], (bottom,))


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (31, 17)])
def test_a_tiny_image_is_kept_as_it_is(size: tuple[int, int]) -> None:
    assert decode(encoded(halves(size=size), "PNG"), limits()).size == size


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_large_image_is_scaled_to_about_twice_what_the_model_sees(format: str) -> None:
    photo = decode(encoded(halves(size=(3000, 2000)), format), limits(useful_pixels=256 * 256))

    assert 256 * 256 <= photo.width * photo.height <= 4.1 * 256 * 256
    assert photo.width / photo.height == pytest.approx(1.5, abs=0.01)
    assert near(photo.getpixel((10, 10)), RED)
    assert near(photo.getpixel((photo.width - 10, 10)), BLUE)


@given(width=st.integers(1, 400), height=st.integers(1, 400), useful=st.integers(1024, 40_000))
@settings(max_examples=50, deadline=None)
def test_no_image_is_made_larger_or_smaller_than_of_use(width: int, height: int, useful: int) -> None:
    if max(width, height) > 200 * min(width, height):
        return
    photo = decode(encoded(Image.new("RGB", (width, height)), "BMP"), limits(useful))

    assert photo.width <= width
    assert photo.height <= height
    assert photo.width * photo.height >= min(width * height, useful)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_file_that_ends_early_is_refused_in_one_line(format: str) -> None:
    noise = Image.effect_noise((200, 200), 80)

    with pytest.raises(BadImage) as refused:
        decode(encoded(noise, format)[:3000], limits())

    assert len(str(refused.value).splitlines()) == 1
    assert "truncated" in str(refused.value) or "header" in str(refused.value)


@given(data=st.binary(max_size=300), format=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]))
@settings(max_examples=200, deadline=None)
def test_damaged_bytes_are_a_image_or_a_bad_image(data: bytes, format: str) -> None:
    whole = bytearray(encoded(halves(), format))
    at = len(whole) // 3
    whole[at : at + len(data)] = data

    with contextlib.suppress(BadImage):
        assert decode(bytes(whole), limits()).mode == "RGB"


def test_a_bomb_is_refused_by_its_header() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    started = time.monotonic()

    with pytest.raises(BadImage):
        decode(bomb, limits())
    assert time.monotonic() - started < 1


def test_a_image_over_the_limits_is_refused() -> None:
    with pytest.raises(BadImage, match="VQA_IMAGE_MAX_PIXELS"):
        decode(encoded(halves(), "PNG"), ImageLimits(MIB, 60 * 40 - 1, 1024))
    with pytest.raises(BadImage, match="VQA_IMAGE_MAX_BYTES"):
        decode(encoded(halves(), "PNG"), ImageLimits(10, MIB, 1024))


def test_a_sliver_is_refused() -> None:
    assert decode(encoded(halves(size=(2000, 10)), "PNG"), limits())
    with pytest.raises(BadImage, match="200 times"):
        decode(encoded(halves(size=(2010, 10)), "PNG"), limits())


@pytest.mark.parametrize("data", [b"", b"no image", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(BadImage):
        decode(data, limits())


def test_memory_that_runs_out_is_worth_another_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    def runs_out(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(workers.media.image, "_scale", runs_out)

    with pytest.raises(EngineError, match="memory"):
        decode(encoded(halves(), "PNG"), limits())


@functools.cache
def processor(least: int, most: int) -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(
        patch_size=16, merge_size=2, size={"shortest_edge": least, "longest_edge": most}, do_convert_rgb=True
    )


def as_the_model_resizes(image: Image.Image, fit: Fit) -> np.ndarray[Any, Any]:
    """What transformers' own image processor scales the image to."""
    theirs = processor(fit.min_pixels, fit.max_pixels)
    resized = theirs.resize(
        np.moveaxis(np.asarray(image), -1, 0), size=theirs.size, resample=theirs.resample, factor=fit.factor
    )
    return np.moveaxis(resized, 0, -1)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


@given(width=st.integers(1, 900), height=st.integers(1, 900), sides=st.sampled_from([(64, 256), (256, 1024)]))
@settings(max_examples=150, deadline=None)
def test_with_a_fit_the_pixels_are_those_of_the_models_own_processor(
    width: int, height: int, sides: tuple[int, int]
) -> None:
    if max(width, height) > 200 * min(width, height):
        return
    fit = Fit(32, *(side**2 for side in sides))
    image = noise(width, height)

    photo = decode(encoded(image, "BMP"), limits(fit=fit))

    assert np.array_equal(np.asarray(photo), as_the_model_resizes(image, fit))


def test_with_a_fit_a_turned_photo_is_what_the_models_own_processor_makes_of_it_upright() -> None:
    fit = Fit(32, 64 * 64, 256 * 256)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = encoded(noise(900, 700), "JPEG", exif=exif)

    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))

    assert np.array_equal(np.asarray(decode(data, limits(fit=fit))), as_the_model_resizes(upright, fit))


@given(
    width=st.integers(1, 2500),
    height=st.integers(1, 2500),
    orientation=st.integers(0, 9),
    format=st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF"]),
)
@settings(max_examples=100, deadline=None)
def test_the_fitted_size_is_that_of_the_whole_image_however_it_is_turned_and_scaled_before(
    width: int, height: int, orientation: int, format: str
) -> None:
    if max(width, height) > 200 * min(width, height):
        return
    fit = Fit(32, 64 * 64, 256 * 256)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(Image.new("L", (width, height)), format, exif=exif)

    photo = decode(data, limits(useful_pixels=fit.max_pixels, fit=fit))

    assert photo.size == fit.size(*((height, width) if orientation in {5, 6, 7, 8} else (width, height)))


def test_limits_come_back_from_what_a_child_process_is_told() -> None:
    for given_limits in (limits(), limits(fit=Fit(32, 64 * 64, 1024 * 1024))):
        assert ImageLimits.from_dict(json.loads(json.dumps(asdict(given_limits)))) == given_limits
