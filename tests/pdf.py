"""PDF documents, written by hand."""

from __future__ import annotations

from collections.abc import Sequence


def pdf(pages: Sequence[tuple[float, float, str]], trailer: str = "", objects: Sequence[str] = ()) -> bytes:
    """Return a document of pages, each with width and height in points and its content.

    Names of `objects` in the trailer: the first has the number 3 + 2 x the number of pages.
    """
    kids = " ".join(f"{3 + 2 * number} 0 R" for number in range(len(pages)))
    bodies = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
    ]
    for number, (width, height, content) in enumerate(pages):
        font = "<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
        bodies.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width:g} {height:g}] /Resources {font} "
            f"/Contents {4 + 2 * number} 0 R >>"
        )
        bodies.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    bodies += objects
    data, places = b"%PDF-1.7\n", []
    for number, body in enumerate(bodies, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(bodies) + 1
    end = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R {trailer} >>\n"
    return data + f"{end}startxref\n{len(data)}\n%%EOF\n".encode("latin-1")


def red_box(x: float, y: float, width: float, height: float) -> str:
    """Content of a page: a rectangle, measured from the lower left corner."""
    return f"1 0 0 rg {x:g} {y:g} {width:g} {height:g} re f"
