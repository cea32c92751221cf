"""Images of any mode to 8-bit grey or RGB, as somebody would see them on a white page."""

from __future__ import annotations

import io
import math
from typing import cast

from PIL import Image

#: Pillow's modes of 16 and 32 bits per channel; Pillow would clip them at 255 instead of scaling them
_DEEP = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N", "F"})

#: largest values of the bit depths that cameras, scanners and X-ray machines write into 16 or 32 bits
_FULL = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))

#: over white, a drawing that is nowhere darker than this cannot be seen
_FAINT = 240

#: modes with channels of their own in colour profiles, by the profile's name for them
_PROFILE_SPACES = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}


def to_grey_or_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded image as L or RGB; in CMYK with a colour profile, which `to_srgb` needs.

    Transparent pixels are over white, deep ones scaled to 8 bits.
    """
    if image.mode in _DEEP:
        return _to_8_bits(image)
    if image.has_transparency_data:
        return _without_alpha(image if image.mode in ("LA", "RGBA") else image.convert("RGBA"))
    if image.mode in ("L", "RGB") or (image.mode == "CMYK" and image.info.get("icc_profile")):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return an image of mode L, RGB or CMYK in sRGB, as L or RGB. A profile that is damaged or of others is ignored.

    This comes before scaling: in another colour space, a filter gives other colours, by 1 to 4 of 255 on average.
    """
    converted = _by_profile(image, profile) if profile else None
    return converted or (as_rgb(image) if image.mode == "CMYK" else image)


def as_rgb(image: Image.Image) -> Image.Image:
    # converting copies the image
    return image if image.mode == "RGB" else image.convert("RGB")


def _by_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Return None if the profile is of no use, or is that of sRGB."""
    # few images have a profile that matters, and the import takes as long as a small image
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != _PROFILE_SPACES[image.mode]:
            return None
        if "sRGB" in (source.profile.profile_description or ""):
            return None
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def _without_alpha(image: Image.Image) -> Image.Image:
    """Put an LA or RGBA image over white; over black if it is too light to be seen over white.

    If the alpha channel hides everything, it is ignored: bitmaps of the Windows clipboard have such a channel, unused.
    """
    colours, alpha = image.convert(image.mode[:-1]), image.getchannel("A")
    [(least, most)] = _extrema(alpha)
    if most == 0 and any(low < high for low, high in _extrema(colours)):
        return colours
    over = _over("white", colours, alpha)
    invisible = least < 255 and most > 0 and min(low for low, _ in _extrema(over)) >= _FAINT
    return _over("black", colours, alpha) if invisible else over


def _over(ground: str, colours: Image.Image, alpha: Image.Image) -> Image.Image:
    over = Image.new(colours.mode, colours.size, ground)
    over.paste(colours, mask=alpha)
    return over


def _extrema(image: Image.Image) -> list[tuple[int, int]]:
    return [cast(tuple[int, int], channel.getextrema()) for channel in image.split()]


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale to 8-bit grey."""
    deep = image.convert("F")
    low, full = _range(image.mode, *cast(tuple[float, float], deep.getextrema()))
    scale = 255 / (full - low) if 0 < full - low < math.inf else 0.0
    return deep.point(lambda value: value * scale - low * scale).convert("L")


def _range(mode: str, lowest: float, highest: float) -> tuple[float, float]:
    """Return the values that are black and white.

    Floating point ends at 1 if none is larger; other pixels at the smallest depth that holds the largest, as 12 bits
    are often written into 16. Below zero and beyond 16 bits there is no custom, so the values' own range is taken.
    """
    if mode == "F" and highest <= 1:
        return min(0.0, lowest), 1.0
    if lowest < 0:
        return lowest, highest
    return 0.0, next((full for full in _FULL if highest <= full), highest)
