"""Files that are made to harm the reader of their format."""

from tests.corpus.formats import bmp, gif, heif, ico, jpeg, jpeg2000, mixed, pdf, png, tiff, tiff_pages, webp  # noqa: F401
