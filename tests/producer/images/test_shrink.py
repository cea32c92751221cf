"""Images scaled before they are stored: the worker's decoding gives the same pixels with and without."""

import io
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageCms, ImageStat

from producer.images.shrink import shrunk
from vqa.images.file import frame_count
from vqa.images.fit import Fit
from vqa.images.limits import FileLimits
from workers.media.limits import ImageLimits
from workers.media.source import decode

FIT = Fit(32, 65_536, 100 * 32**2)
FILES = FileLimits(20 * 2**20, 50_000_000)


def seen(data: bytes, fit: Fit = FIT) -> Image.Image:
    """What a worker's model sees."""
    [decoded] = decode(data, ImageLimits(FILES.max_bytes, FILES.max_pixels, fit.max_pixels, fit))
    return decoded.image


@cache
def photo(width: int = 960, height: int = 720) -> Image.Image:
    """Edges, gradients and some grain, in colour."""
    grain, blobs = (Image.effect_noise(size, 60).resize((width, height)) for size in ((width, height), (24, 18)))
    across = Image.linear_gradient("L").resize((width, height))
    spokes = Image.radial_gradient("L").resize((width, height)).point(lambda value: 255 * (value % 32 < 16))
    channels = (blobs, across, spokes)
    return Image.merge("RGB", [ImageChops.blend(channel, grain, 0.1) for channel in channels])


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    # where the photo was taken
    exif.get_ifd(0x8825)[1] = "N"
    return exif


def _profile() -> bytes:
    # not sRGB: a profile with other primaries, by way of Pillow's own Lab
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


SOURCES: Mapping[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(photo(), "JPEG", quality=90),
    "jpeg-turned": lambda: encoded(photo(), "JPEG", quality=90, exif=_exif(6)),
    "jpeg-profile": lambda: encoded(photo(), "JPEG", quality=90, icc_profile=_profile()),
    "jpeg-cmyk": lambda: encoded(photo().convert("CMYK"), "JPEG", quality=95),
    "jpeg-grey": lambda: encoded(photo().convert("L"), "JPEG", quality=98),
    "png": lambda: encoded(photo(), "PNG", compress_level=1),
    "png-alpha": lambda: encoded(_with_alpha(photo().copy()), "PNG", compress_level=1),
    "png-palette": lambda: encoded(photo().quantize(200), "PNG", compress_level=1),
    "png-16-bit": lambda: encoded(_deep(photo()), "PNG", compress_level=1),
    "webp": lambda: encoded(photo(), "WEBP", quality=95),
    "tiff": lambda: encoded(photo(), "TIFF"),
    "bmp": lambda: encoded(photo(), "BMP"),
    "gif": lambda: encoded(photo(), "GIF"),
    "long": lambda: encoded(photo(6000, 60), "PNG", compress_level=1),
    "upright": lambda: encoded(photo(701, 1007), "JPEG", quality=95),
}


def _deep(image: Image.Image) -> Image.Image:
    """The image in 16 bits of grey."""
    return Image.frombytes("I;16", image.size, b"".join(bytes((17, value)) for value in image.convert("L").tobytes()))


def _with_alpha(image: Image.Image) -> Image.Image:
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


@pytest.mark.parametrize("source", SOURCES)
def test_the_model_sees_the_same_pixels(source: str) -> None:
    data = SOURCES[source]()
    smaller = shrunk(data, FIT, FILES)
    assert len(smaller) < len(data)
    assert ImageChops.difference(seen(data), seen(smaller)).getbbox() is None


@pytest.mark.parametrize("source", ["jpeg", "png", "jpeg-cmyk"])
def test_jpeg_changes_them_little_and_takes_less(source: str) -> None:
    data = SOURCES[source]()
    exact, smaller = shrunk(data, FIT, FILES), shrunk(data, FIT, FILES, quality=95)
    assert len(smaller) < 0.7 * len(exact)
    difference = ImageStat.Stat(ImageChops.difference(seen(data), seen(smaller)))
    assert max(difference.mean) < 4
    assert max(high for _, high in difference.extrema) < 40


def test_metadata_such_as_the_place_is_dropped() -> None:
    data = SOURCES["jpeg-turned"]()
    for smaller in (shrunk(data, FIT, FILES), shrunk(data, FIT, FILES, quality=95)):
        with Image.open(io.BytesIO(smaller)) as image:
            assert not image.getexif()
            assert "icc_profile" not in image.info
            assert image.height > image.width


def _pages() -> bytes:
    return encoded(photo(), "TIFF", save_all=True, append_images=[photo()])


def _frames() -> bytes:
    small = photo().resize((400, 300))
    return encoded(small, "GIF", save_all=True, append_images=[small.rotate(90)])


@pytest.mark.parametrize(
    "make",
    [
        lambda: encoded(photo(300, 200), "PNG"),
        lambda: encoded(photo(320, 320), "BMP"),
        lambda: encoded(photo(), "JPEG", quality=3),
        _pages,
        _frames,
        lambda: SOURCES["jpeg"]()[:5000],
        lambda: SOURCES["png"]()[:50_000],
        lambda: b"%PDF-1.7 ...",
        lambda: b"no image",
        lambda: b"",
    ],
    ids=["small", "as-seen", "poor", "pages", "frames", "cut-jpeg", "cut-png", "pdf", "text", "empty"],
)
def test_what_would_not_shrink_stays_as_it_is(make: Callable[[], bytes]) -> None:
    data = make()
    assert shrunk(data, FIT, FILES) is data


def test_an_image_over_the_limits_is_not_decoded() -> None:
    data = SOURCES["jpeg"]()
    assert shrunk(data, FIT, FileLimits(FILES.max_bytes, 960 * 720 - 1)) is data


def test_a_shrunk_image_stays_as_it_is() -> None:
    smaller = shrunk(SOURCES["jpeg"](), FIT, FILES)
    assert frame_count(smaller) == 1
    assert shrunk(smaller, FIT, FILES) is smaller
