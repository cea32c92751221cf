"""PDF (ISO 32000): pages without end, streams in streams, drawing that never ends."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import partial
from random import Random

from tests.corpus.formats.png import deflated_zeros
from tests.corpus.registry import bad

_DRAWING = b"q 1 0 0 rg 50 50 100 100 re f 0 0 1 RG 20 20 m 180 150 l S Q"


def stream(data: bytes, entries: str = "", length: int | None = None) -> bytes:
    head = f"<< /Length {len(data) if length is None else length} {entries} >>\nstream\n"
    return head.encode() + data + b"\nendstream"


def pdf(objects: Mapping[int, bytes | str], root: int = 1, trailer: str = "") -> bytes:
    """Return a file of these objects by number, with a right table of where they are."""
    data, places = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", {}
    for number, body in objects.items():
        places[number] = len(data)
        data += b"%d 0 obj\n" % number + (body.encode() if isinstance(body, str) else body) + b"\nendobj\n"
    size = max(objects) + 1
    table = b"".join(
        b"%010d 00000 n \n" % places[number] if number in places else b"0000000000 65535 f \n" for number in range(size)
    )
    ending = f"trailer\n<< /Size {size} /Root {root} 0 R {trailer} >>\nstartxref\n{len(data)}\n%%EOF\n"
    return data + b"xref\n0 %d\n" % size + table + ending.encode()


def page(box: str = "0 0 200 200", contents: int = 4, entries: str = "") -> str:
    return f"<< /Type /Page /Parent 2 0 R /MediaBox [{box}] /Contents {contents} 0 R {entries} >>"


_CATALOG = "<< /Type /Catalog /Pages 2 0 R >>"


def document(
    pages: int = 1, one: str = "", contents: bytes = b"", claimed: int | None = None, **objects: bytes | str
) -> bytes:
    """Return a document that shows the same page `pages` times; `objects` are further ones, as `o5=...`."""
    kids = "3 0 R " * pages
    tree = f"<< /Type /Pages /Kids [{kids}] /Count {pages if claimed is None else claimed} >>"
    more = {int(name[1:]): body for name, body in objects.items()}
    return pdf({1: _CATALOG, 2: tree, 3: one or page(), 4: contents or stream(_DRAWING), **more})


def _tree(levels: int, width: int) -> bytes:
    """Return a tree of pages whose branches are all the same, so that it has width**levels leaves."""
    objects: dict[int, bytes | str] = {1: _CATALOG}
    for level in range(levels):
        kids = f"{level + 3} 0 R " * width
        objects[level + 2] = f"<< /Type /Pages /Kids [{kids}] /Count {width ** (levels - level)} >>"
    objects[levels + 2] = page(contents=levels + 3)
    objects[levels + 3] = stream(_DRAWING)
    return pdf(objects)


def _deflated(data: bytes, times: int) -> bytes:
    for _ in range(times):
        data = zlib.compress(data)
    return data


def _resources(what: str) -> str:
    return page(entries=f"/Resources << {what} >>")


def _image(width: int, height: int, filter: str, data: bytes) -> bytes:
    entries = (
        f"/Type /XObject /Subtype /Image /Width {width} /Height {height} /BitsPerComponent 8 /ColorSpace /DeviceRGB"
    )
    return document(
        1,
        _resources("/XObject << /I 5 0 R >>"),
        stream(b"200 0 0 200 0 0 cm /I Do"),
        o5=stream(data, f"{entries} /Filter /{filter}"),
    )


@bad("pdf-image-garbage")
def _image_garbage(draw: Random) -> bytes:
    filter = draw.choice(
        ("DCTDecode", "JPXDecode", "JBIG2Decode", "CCITTFaxDecode", "LZWDecode", "RunLengthDecode", "ASCII85Decode")
    )
    return _image(draw.choice((16, 5000)), 300, filter, draw.randbytes(3000))


@bad("pdf-drawing-garbage")
def _drawing_garbage(draw: Random) -> bytes:
    words = b"q Q cm re f S W n m l c h BT ET Tf Tj gs sh Do scn cs 0 1 -1 1e30 /F0 (x) [ ] << >> BI ID EI".split()
    return document(contents=stream(b" ".join(draw.choice(words) for _ in range(20_000))))


@bad("pdf-objects-garbage")
def _objects(draw: Random) -> bytes:
    data = bytearray(document(3))
    for _ in range(40):
        data[draw.randrange(20, len(data))] = draw.choice(b"0123456789[]<>/ R")
    return bytes(data)


@bad("pdf-table-garbage")
def _table(draw: Random) -> bytes:
    data = document(2)
    at = data.index(b"xref\n0 ")
    return data[:at] + b"xref\n0 %d\n" % draw.choice((3, 2**31, 2**63)) + draw.randbytes(300) + data[at + 60 :]


@bad("pdf-font-garbage")
def _font(draw: Random) -> bytes:
    return document(
        1,
        _resources("/Font << /F 5 0 R >>"),
        stream(b"BT /F 40 Tf 20 100 Td (hello) Tj ET"),
        o5="<< /Type /Font /Subtype /TrueType /BaseFont /X /FontDescriptor 6 0 R >>",
        o6="<< /Type /FontDescriptor /FontName /X /Flags 4 /FontFile2 7 0 R >>",
        o7=stream(b"\0\1\0\0" + draw.randbytes(5000)),
    )


_FORM = "/Type /XObject /Subtype /Form /BBox [0 0 200 200] /Resources << /XObject << /A 5 0 R /B 6 0 R >> >>"
_TILING = (
    "/Type /Pattern /PatternType 1 /PaintType 1 /TilingType 1 /BBox [0 0 1 1] /XStep 0.0001 /YStep 0.0001 "
    "/Resources << >>"
)
_SHADING = (
    "<< /ShadingType 1 /ColorSpace /DeviceRGB /Domain [0 1e9 0 1e9] "
    "/Function << /FunctionType 4 /Domain [0 1 0 1] >> >>"
)
_WHOLE = {
    "page-of-a-billion": lambda: document(1, page("0 0 1000000000 1000000000")),
    "page-without-size": lambda: document(1, page("0 0 0 0")),
    "page-negative": lambda: document(1, page("200 200 -200 -900")),
    "page-not-a-number": lambda: document(1, page("nan inf -inf (x)")),
    "page-1x100000": lambda: document(1, page("0 0 1 100000")),
    "page-of-7000-points": lambda: document(1, page("0 0 7000 7000")),
    "page-in-huge-units": lambda: document(1, page(entries="/UserUnit 1000000")),
    "17-pages": lambda: document(17),
    "million-pages": lambda: document(10**6),
    "million-pages-claimed": lambda: document(1, claimed=10**6),
    "2-billion-pages-claimed": lambda: document(1, claimed=2**31 - 1),
    "minus-pages-claimed": lambda: document(1, claimed=-5),
    "pages-in-a-tree-of-10-to-the-9": lambda: _tree(9, 10),
    "pages-10000-deep": lambda: _tree(10_000, 1),
    "pages-in-a-loop": lambda: pdf({1: _CATALOG, 2: "<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 9 >>"}),
    "no-pages": lambda: pdf({1: _CATALOG, 2: "<< /Type /Pages /Kids [] /Count 0 >>"}),
    "no-root": lambda: pdf({1: _CATALOG}, root=99),
    "contents-inflating": lambda: document(contents=stream(deflated_zeros(512 << 20), "/Filter /FlateDecode")),
    "contents-inflating-twice": lambda: document(
        contents=stream(zlib.compress(deflated_zeros(1 << 30)), "/Filter [/FlateDecode /FlateDecode]")
    ),
    "contents-deflated-ten-times": lambda: document(
        contents=stream(_deflated(_DRAWING, 10), "/Filter [" + "/FlateDecode " * 10 + "]")
    ),
    "contents-of-a-million-lines": lambda: document(
        contents=stream(zlib.compress(b"0 0 m 200 200 l S " * 10**6), "/Filter /FlateDecode")
    ),
    "contents-of-a-path-of-million-curves": lambda: document(
        contents=stream(zlib.compress(b"0 0 m " + b"0 200 200 0 200 200 c " * 10**6 + b"f"), "/Filter /FlateDecode")
    ),
    "contents-saving-million-times": lambda: document(
        contents=stream(zlib.compress(b"q " * 10**6), "/Filter /FlateDecode")
    ),
    "contents-length-wrong": lambda: document(contents=stream(_DRAWING, length=10**9)),
    "contents-is-itself": lambda: document(1, page(contents=3)),
    "dashes-without-end": lambda: document(
        1, page("0 0 3000 3000"), stream(b"[0.00001] 0 d 0 0 m 3000 3000 l S " * 50)
    ),
    "forms-in-forms": lambda: document(
        1,
        _resources("/XObject << /A 5 0 R >>"),
        stream(b"/A Do"),
        o5=stream(b"/B Do /B Do", _FORM),
        o6=stream(b"/A Do /A Do", _FORM),
    ),
    "tiling-in-tiny-steps": lambda: document(
        1,
        _resources("/Pattern << /P 5 0 R >>"),
        stream(b"/Pattern cs /P scn 0 0 200 200 re f"),
        o5=stream(b"0 0 1 1 re f", _TILING),
    ),
    "shading-huge": lambda: document(1, _resources("/Shading << /S 5 0 R >>"), stream(b"/S sh"), o5=_SHADING),
    "image-of-10-gigapixels": lambda: _image(100_000, 100_000, "FlateDecode", deflated_zeros(1 << 20)),
    "image-of-2-billion-wide": lambda: _image(2**31 - 1, 2**31 - 1, "FlateDecode", deflated_zeros(1 << 20)),
    "image-of-100-megapixels": lambda: _image(10_000, 10_000, "FlateDecode", deflated_zeros(300_000_000)),
    "encrypted": lambda: pdf(
        {
            1: _CATALOG,
            2: "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            3: page(),
            4: stream(_DRAWING),
            5: "<< /Filter /Standard /V 2 /R 3 /O (x) /U (y) /P -4 >>",
        },
        trailer="/Encrypt 5 0 R /ID [(a) (b)]",
    ),
    "table-in-a-loop": lambda: pdf({1: _CATALOG, 2: "<< /Type /Pages /Kids [] /Count 0 >>"}, trailer="/Prev 15"),
    "arrays-100000-deep": lambda: document(1, page(entries="/X " + "[" * 100_000 + "]" * 100_000)),
    "dictionaries-100000-deep": lambda: document(1, page(entries="/X " + "<< /X " * 100_000 + ">>" * 100_000)),
    "start-alone": lambda: b"%PDF-1.7\n",
    "table-missing": lambda: document(2).partition(b"xref")[0],
    "start-of-table-wrong": lambda: document(2).replace(b"startxref\n", b"startxref\n9999"),
    "with-script": lambda: pdf(
        {
            1: "<< /Type /Catalog /Pages 2 0 R /OpenAction << /S /JavaScript /JS (while(1){}) >> >>",
            2: "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            3: page(),
            4: stream(_DRAWING),
        }
    ),
}
for _name, _make in _WHOLE.items():
    bad(f"pdf-{_name}")(partial(lambda draw, make: make(), make=_make))
