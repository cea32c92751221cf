"""Readers of formats that Pillow does not have, or that have to be told to use one core."""

from __future__ import annotations

from vqa.errors import BadImage
from vqa.images.formats import AVIF, HEIF, format_of


def prepare_reader(data: bytes) -> None:
    """Make the reader for this file ready. Raises BadImage, naming the extra, if it is not installed."""
    format = format_of(data)
    if format is HEIF:
        _prepare_heic()
    elif format is AVIF:
        from PIL import AvifImagePlugin

        # there is a process for each of the cores that images may use
        AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def _prepare_heic() -> None:
    try:
        import pi_heif
    except ImportError:
        raise BadImage(
            "a HEIC image, which this worker cannot read; it needs `pip install 'vqa-queue[heic]'`"
        ) from None
    # after the first time, this costs nothing
    pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
