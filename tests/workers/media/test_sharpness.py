"""What the model sees of an image is what transformers' own image processor makes of it, whatever its mode."""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw, ImageFont

from tests.icc import ADOBE_RGB, DISPLAY_P3, cmyk_profile, grey_profile, rgb_profile
from vqa.images.fit import Fit
from vqa.images.source import read_image
from workers.media.limits import ImageLimits
from workers.media.source import decode

FIT = Fit(32, 64 * 64, 256 * 256)

Pixels = np.ndarray[Any, np.dtype[np.float64]]

#: smaller than the model sees, a page, and one of over four times the model's width
SIZES = [(150, 120), (640, 900), (1500, 1100)]

#: of over 4.2 and over 12 megapixels: greys, palettes and inks were once reduced before they were scaled
LARGE, HUGE = (2600, 1700), (4100, 3000)

#: mean differences, of 255, up to which an image counts as what the processor makes of it
EXACT, NEARLY = 0.0, 0.5


@dataclass(frozen=True)
class Kind:
    mode: str
    format: str
    how: dict[str, Any] = field(default_factory=dict)
    #: of a colour profile in the file
    colours: str = ""

    def __str__(self) -> str:
        return "-".join(filter(None, (self.mode, self.format, *map(str, self.how), self.colours)))

    @property
    def allowed(self) -> float:
        """The mean difference that is allowed."""
        return EXACT if self.mode in ("RGB", "L") and not self.colours else NEARLY


KINDS = [
    *(Kind("RGB", format) for format in ("PNG", "JPEG", "BMP", "TIFF")),
    Kind("RGB", "JPEG", how={"progressive": True}),
    Kind("RGB", "WEBP", how={"lossless": True}),
    *(Kind("L", format) for format in ("PNG", "JPEG", "TIFF")),
    Kind("1", "PNG"),
    Kind("1", "TIFF", how={"compression": "group4"}),
    *(Kind("P", format) for format in ("PNG", "GIF")),
    *(Kind("P", format, {"transparency": 3}) for format in ("PNG", "GIF")),
    Kind("LA", "PNG"),
    *(Kind("RGBA", format) for format in ("PNG", "TIFF")),
    *(Kind("CMYK", format) for format in ("JPEG", "TIFF")),
    *(Kind(mode, "TIFF") for mode in ("LAB", "YCbCr", "I", "F")),
    Kind("I;16", "PNG"),
    # five times as fast to write as by default
    *(Kind(mode, "AVIF", {"speed": 10}) for mode in ("RGB", "RGBA")),
    Kind("RGBA", "WEBP", {"lossless": True}),
    # a twentieth of the size is read six times as fast as what loses nothing
    *(Kind(mode, "JPEG2000", {"quality_layers": [20]}) for mode in ("RGB", "L", "RGBA")),
    *(Kind("RGB", "JPEG", colours=colours) for colours in ("Display P3", "Adobe RGB")),
    Kind("L", "PNG", colours="grey"),
    *(Kind("CMYK", format, colours="inks") for format in ("JPEG", "TIFF")),
]

LARGE_KINDS = [
    Kind("RGB", "JPEG"),
    Kind("RGB", "JPEG", colours="Display P3"),
    *(Kind("L", format) for format in ("JPEG", "TIFF")),
    Kind("1", "TIFF", {"compression": "group4"}),
    Kind("P", "GIF"),
    Kind("CMYK", "JPEG"),
    Kind("CMYK", "JPEG", colours="inks"),
    Kind("I;16", "TIFF"),
    Kind("LA", "TIFF"),
]

HUGE_KINDS = [
    Kind("RGB", "JPEG"),
    Kind("L", "TIFF"),
    Kind("1", "TIFF", {"compression": "group4"}),
    Kind("CMYK", "JPEG"),
]

PROFILES = {
    "Display P3": rgb_profile(DISPLAY_P3, 2.2),
    "Adobe RGB": rgb_profile(ADOBE_RGB, 2.2),
    "grey": grey_profile(1.8),
    "inks": cmyk_profile(),
}


@functools.cache
def page(width: int, height: int) -> Image.Image:
    """A page of small print in several colours, with a photograph's grain in a corner; a large one has several."""
    if width > 2000:
        image, tile = Image.new("RGB", (width, height)), page(1500, 1100)
        for left, top in itertools.product(range(0, width, tile.width), range(0, height, tile.height)):
            image.paste(tile, (left, top))
        return image
    image = Image.new("RGB", (width, height), (250, 248, 240))
    draw = ImageDraw.Draw(image)
    for number, top in enumerate(range(4, height, 14)):
        ink = [(20, 20, 30), (150, 20, 20), (10, 60, 160)][number % 3]
        draw.text(
            (5, top), f"{number} the quick brown fox jumps over the lazy dog " * 6, ink, ImageFont.load_default(11)
        )
    grain = Image.effect_noise((width // 3, height // 4), 60)
    image.paste(Image.merge("RGB", [grain] * 3), (width // 2, height // 2))
    return image


def drawn(kind: Kind, size: tuple[int, int]) -> Image.Image:
    """The page in the mode; transparent around a circle."""
    image = page(*size).copy()
    grey = image.convert("L")
    match kind.mode:
        case "1":
            return grey.point(lambda value: 255 * (value > 128)).convert("1")
        case "I;16":
            return Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        case "I":
            return Image.fromarray(np.asarray(grey).astype(np.int32) * 257)
        case "F":
            return Image.fromarray(np.asarray(grey).astype(np.float32) / 255)
        case "LA" | "RGBA":
            alpha = Image.new("L", size)
            ImageDraw.Draw(alpha).ellipse((10, 10, size[0] - 10, size[1] - 10), 255, 128, 5)
            image.putalpha(alpha)
            return image.convert(kind.mode)
        case "P":
            return image.quantize(64)
        case "LAB":
            profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
            lab = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
            assert lab is not None
            return lab
    return image.convert(kind.mode)


def as_processors_get_it(data: bytes) -> Image.Image:
    """The whole image in RGB, by Pillow alone; transformers leaves transparency and depth to its callers."""
    image: Image.Image = Image.open(io.BytesIO(data))
    if profile := image.info.get("icc_profile"):
        source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
        assert converted is not None
        return converted
    if image.mode in ("I", "I;16"):
        return Image.fromarray((np.asarray(image).astype(int) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return Image.fromarray((np.asarray(image) * 255).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


@functools.cache
def processor() -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    size = {"shortest_edge": FIT.min_pixels, "longest_edge": FIT.max_pixels}
    return Qwen2VLImageProcessorPil(patch_size=16, merge_size=2, size=size)


def by_the_processor(image: Image.Image) -> Pixels:
    theirs = processor()
    channels = np.moveaxis(np.asarray(image), -1, 0)
    resized = theirs.resize(channels, size=theirs.size, resample=theirs.resample, factor=FIT.factor)
    return np.asarray(np.moveaxis(resized, 0, -1), dtype=float)


def by_us(data: bytes, fit: Fit | None = FIT) -> Pixels:
    limits = ImageLimits(20 * 2**20, 50_000_000, FIT.max_pixels, fit)
    return np.asarray(decode(data, limits)[0].image.convert("RGB")).astype(float)


def edges(pixels: Pixels) -> float:
    return float(sum(np.abs(np.diff(pixels, axis=axis)).mean() for axis in (0, 1)))


CASES = [
    *itertools.product(KINDS, SIZES),
    *((kind, LARGE) for kind in LARGE_KINDS),
    *((kind, HUGE) for kind in HUGE_KINDS),
]
FILES = [pytest.param(kind, size, id=f"{kind}-{size[0]}x{size[1]}") for kind, size in CASES]


def written(kind: Kind, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    how = {"icc_profile": PROFILES[kind.colours]} if kind.colours else {}
    drawn(kind, size).save(buffer, kind.format, **kind.how, **how)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "size"), FILES)
def test_the_model_sees_what_its_own_processor_would_give_it(
    kind: Kind, size: tuple[int, int], record_property: Callable[[str, object], None]
) -> None:
    data = written(kind, size)
    theirs, ours = by_the_processor(as_processors_get_it(data)), by_us(data)

    assert ours.shape == theirs.shape
    difference = float(np.abs(ours - theirs).mean())
    record_property("mean difference of 255", difference)
    assert difference <= min(kind.allowed, 0.01)
    assert edges(ours) == pytest.approx(edges(theirs), rel=0.01)


HANDED_OVER = [Kind("RGB", "JPEG"), Kind("L", "PNG"), Kind("P", "GIF"), Kind("CMYK", "JPEG")]


@pytest.mark.parametrize("size", [(2000, 1400), (2600, 1700)], ids=["2000x1400", "2600x1700"])
@pytest.mark.parametrize("kind", [*HANDED_OVER, Kind("RGB", "JPEG", colours="Display P3")], ids=str)
def test_an_image_that_the_engine_scales_itself_stays_as_sharp(kind: Kind, size: tuple[int, int]) -> None:
    data = written(kind, size)
    handed_over = by_us(data, fit=None)
    assert handed_over.shape[0] * handed_over.shape[1] < 4.1 * FIT.max_pixels
    theirs = by_the_processor(as_processors_get_it(data))

    seen = by_the_processor(Image.fromarray(handed_over.astype(np.uint8)))

    assert edges(seen) == pytest.approx(edges(theirs), rel=0.02)
    assert np.abs(seen - theirs).mean() < NEARLY


def test_black_and_white_that_the_engine_scales_itself_is_nearly_as_sharp() -> None:
    # the filter overshoots at edges from 0 to 255, where nothing is left above and below: 1.6 of 255, edges 0.966
    data = written(Kind("1", "TIFF"), (2000, 1400))
    theirs = by_the_processor(as_processors_get_it(data))

    seen = by_the_processor(Image.fromarray(by_us(data, fit=None).astype(np.uint8)))

    assert edges(seen) == pytest.approx(edges(theirs), rel=0.04)
    assert np.abs(seen - theirs).mean() < 2


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_pil_image_is_seen_as_its_file_is(kind: Kind) -> None:
    data = written(kind, (640, 900))

    assert np.array_equal(by_us(read_image(Image.open(io.BytesIO(data)))), by_us(data))


def main() -> None:
    """Print the largest differences of each mode, for the documentation."""
    worst: dict[str, tuple[float, float, float, int]] = {}
    for kind, size in CASES:
        data = written(kind, size)
        theirs, ours = by_the_processor(as_processors_get_it(data)), by_us(data)
        apart, sharp = np.abs(ours - theirs), abs(edges(ours) / edges(theirs) - 1)
        mode = f"{kind.mode} with a profile" if kind.colours else kind.mode
        mean, most, edge, count = worst.get(mode, (0.0, 0.0, 0.0, 0))
        worst[mode] = max(mean, apart.mean()), max(most, apart.max()), max(edge, sharp), count + 1
    print(f"{'mode':24} images  mean of 255  most  edges")
    for mode, (mean, most, edge, count) in worst.items():
        print(f"{mode:24} {count:6}  {mean:11.4f}  {most:4.0f}  {edge:5.2%}")


if __name__ == "__main__":
    main()
