"""Transparency, deep pixels and colour profiles: an image is seen as somebody would see it on a white page."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw

from workers.media.limits import ImageLimits
from workers.media.source import decode

SIZE = (60, 40)


def seen(image: Image.Image, format: str, **how: Any) -> np.ndarray[Any, Any]:
    buffer = io.BytesIO()
    image.save(buffer, format, **how)
    return seen_bytes(buffer.getvalue())


def seen_bytes(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(decode(data, ImageLimits(2**20, 10**6, 10**6))[0].image).astype(int)


def drawing(ink: tuple[int, ...], ground: tuple[int, ...]) -> Image.Image:
    image = Image.new("RGBA", SIZE, ground)
    ImageDraw.Draw(image).rectangle((10, 10, 30, 30), ink)
    return image


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("ink", [(255, 255, 255, 255), (250, 250, 245, 255), (255, 255, 255, 120)])
def test_a_white_drawing_on_a_transparent_ground_is_seen(format: str, ink: tuple[int, ...]) -> None:
    pixels = seen(drawing(ink, (255, 255, 255, 0)), format)

    assert pixels[20, 20].min() - pixels[2, 2].max() > 100


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_drawing_in_a_colour_on_a_transparent_ground_is_over_white(mode: str) -> None:
    pixels = seen(drawing((20, 20, 200, 255), (0, 0, 0, 0)).convert(mode), "PNG")

    assert (pixels[2, 2] == 255).all()
    assert pixels[20, 20].min() < 50


def test_a_white_page_without_transparent_pixels_stays_white() -> None:
    assert (seen(Image.new("RGBA", SIZE, "white"), "PNG") == 255).all()


def test_an_image_that_is_transparent_all_over_is_white() -> None:
    assert (seen(Image.new("RGBA", SIZE, (0, 0, 0, 0)), "PNG") == 255).all()


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_an_alpha_channel_that_hides_all_of_a_drawing_is_ignored(format: str) -> None:
    # as in a bitmap of the Windows clipboard, which Pillow cannot write
    pixels = seen(drawing((200, 0, 0, 0), (0, 0, 200, 0)), format)

    assert pixels[20, 20].tolist() == [200, 0, 0]
    assert pixels[2, 2].tolist() == [0, 0, 200]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_the_depth_of_a_deep_image_is_the_least_that_holds_its_brightest_pixel(bits: int, kind: Any) -> None:
    full = 2**bits - 1
    values = np.linspace(0, full, SIZE[0] * SIZE[1]).reshape(SIZE[::-1]).astype(kind)

    pixels = seen(Image.fromarray(values), "TIFF")

    assert np.abs(pixels[..., 0] - values / full * 255).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_of_deep_pixels_are_read(order: str) -> None:
    values = np.arange(SIZE[0] * SIZE[1], dtype=f"{order}u2").reshape(SIZE[::-1]) * 27
    image = Image.fromarray(values)

    assert np.abs(seen(image, "TIFF")[..., 0] - values / 257).max() <= 1


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([0.0, 1.0], 0, 255),
        ([0.0, 0.5], 0, 127),
        ([0.0, 255.0], 0, 255),
        ([-1.0, 1.0], 0, 255),
        ([0.0, 1e6], 0, 255),
        ([-1000.0, 3095.0], 0, 255),
    ],
)
def test_floating_point_is_scaled_by_what_it_must_be(values: list[float], low: int, high: int) -> None:
    pixels = seen(Image.fromarray(np.array([values] * 2, np.float32)), "TIFF")

    assert pixels[0, 0].tolist() == pytest.approx([low] * 3, abs=1)
    assert pixels[0, 1].tolist() == pytest.approx([high] * 3, abs=1)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_no_number_and_infinity_are_no_error(odd: float) -> None:
    assert seen(Image.fromarray(np.full((4, 4), odd, np.float32)), "TIFF").shape == (4, 4, 3)


def swapped_profile() -> bytes:
    """A profile under which red is shown as blue and blue as red: sRGB with the two primaries exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    # not by the name of the colour space that needs no conversion
    while (at := profile.find(b"s\0R\0G\0B")) >= 0:
        profile[at + 2] = ord("X")
    while (at := profile.find(b"\0s\0R\0G\0B")) >= 0:
        profile[at + 1] = ord("X")
    return bytes(profile)


def test_colours_are_those_of_the_profile_in_the_file() -> None:
    pixels = seen(Image.new("RGB", SIZE, (255, 0, 0)), "PNG", icc_profile=swapped_profile())

    assert pixels[2, 2].tolist() == pytest.approx([0, 0, 255], abs=8)


@pytest.mark.parametrize(
    "profile",
    [b"no profile", swapped_profile()[:200], ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()],
)
@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_a_profile_that_is_damaged_or_of_other_colours_is_ignored(profile: bytes, mode: str) -> None:
    image = Image.new("RGB", SIZE, (255, 0, 0)).convert(mode)

    assert (seen(image, "TIFF", icc_profile=profile) == seen(image, "TIFF")).all()


def test_pixels_of_the_usual_profile_are_kept_as_they_are() -> None:
    noise = Image.effect_noise(SIZE, 80).convert("RGB")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    assert (seen(noise, "PNG", icc_profile=profile) == seen(noise, "PNG")).all()
