"""Files that are several things at once, something else than they say, or nothing."""

from __future__ import annotations

import io
import tarfile
import zipfile
from functools import partial
from random import Random

from tests.corpus.formats import gif, heif, jpeg, pdf, tiff, webp
from tests.corpus.formats.bmp import bmp
from tests.corpus.formats.ico import ico
from tests.corpus.formats.jpeg2000 import jp2
from tests.corpus.formats.png import black, chunk
from tests.corpus.registry import bad

_HTML = b"<html><script>alert(1)</script></html>"


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("image.png", black())
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("image.png"))
    return buffer.getvalue()


def _gif() -> bytes:
    return gif.screen(8, 8) + gif.frame(8, 8, gif.lzw_zeros(64)) + gif.TRAILER


#: the first bytes by which each format is known, and a whole file
_STARTS = {
    "jpeg": (b"\xff\xd8\xff\xe0", jpeg.good),
    "png": (b"\x89PNG\r\n\x1a\n", black),
    "gif": (b"GIF89a", _gif),
    "webp": (b"RIFF\x20\0\0\0WEBPVP8 ", lambda: webp.riff(webp.image())),
    "bmp": (b"BM", lambda: bmp(8, 8, bytes(192))),
    "tiff": (b"II*\0", lambda: tiff.image(bytes(768))),
    "avif": (b"\0\0\0\x20ftypavif", heif.avif),
    "jp2": (b"\0\0\0\x0cjP  \r\n\x87\n", jp2),
    "ico": (b"\0\0\1\0\1\0", lambda: ico(black())),
    "pdf": (b"%PDF-1.7\n", pdf.document),
}


@bad("mixed-start-of-one-body-of-another")
def _wrong_start(draw: Random) -> bytes:
    one, other = draw.sample(list(_STARTS), 2)
    start = _STARTS[one][0]
    return start + _STARTS[other][1]()[len(start) :]


@bad("mixed-one-after-another")
def _two(draw: Random) -> bytes:
    return b"".join(_STARTS[name][1]() for name in draw.sample(list(_STARTS), 2))


@bad("mixed-random")
def _random(draw: Random) -> bytes:
    return draw.randbytes(draw.choice((1, 2, 3, 7, 100, 10_000)))


@bad("mixed-start-then-random")
def _start_then_random(draw: Random) -> bytes:
    return _STARTS[draw.choice(list(_STARTS))][0] + draw.randbytes(draw.choice((1, 30, 5000)))


def _start(draw: Random, name: str) -> bytes:
    return _STARTS[name][0]


for _name in _STARTS:
    bad(f"mixed-start-of-{_name}-alone")(partial(_start, name=_name))

_WHOLE = {
    "gif-and-html": lambda: _gif()[:-1] + b"!\xfe" + gif.blocks(_HTML) + gif.TRAILER + _HTML,
    "jpeg-and-zip": lambda: jpeg.good() + _zip(),
    "jpeg-and-html": lambda: jpeg.with_segments(jpeg.good(), jpeg.segment(jpeg.COM, _HTML)),
    "pdf-and-png": lambda: black(8, 8, chunk(b"tEXt", b"a\0" + pdf.document())),
    "png-in-front-of-pdf": lambda: black() + pdf.document(),
    "pdf-behind-a-kilobyte": lambda: b"\n" * 1000 + pdf.document(),
    "bmp-and-script": lambda: bmp(8, 8, bytes(192)) + b"*/=1;alert(1)",
    "tiff-and-zip": lambda: tiff.image(bytes(768)) + _zip(),
    "webp-and-video": lambda: webp.riff(webp.image()).replace(b"WEBP", b"AVI "),
    "zip": _zip,
    "tar": _tar,
    "html": lambda: _HTML,
    "svg": lambda: (
        b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    ),
    "svg-of-a-billion-laughs": lambda: b'<!DOCTYPE x [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;">]><svg>&b;</svg>',
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file\n",
    "ppm": lambda: b"P6 100000 100000 255\n" + bytes(100),
    "psd": lambda: b"8BPS\0\1" + bytes(200),
    "imagemagick-script": lambda: b"push graphic-context\nviewbox 0 0 9 9\nfill 'url(https://x.y/\"|id\")'\n",
    "playlist": lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "program": lambda: b"\x7fELF\2\1\1" + bytes(500),
    "text": lambda: b"hello",
    "empty": lambda: b"",
    "zeros": lambda: bytes(10**6),
    "ones": lambda: b"\xff" * 10**6,
    "too-many-bytes": lambda: jpeg.good() + bytes(20 << 20),
}
for _name, _make in _WHOLE.items():
    bad(f"mixed-{_name}")(partial(lambda draw, make: make(), make=_make))
