"""PDF documents, in a real decoder process."""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pdf import pdf, red_box
from vqa.errors import BadImage
from vqa.images.fit import Fit
from workers.engine.image import RGBImage
from workers.media.decoder import Decoder
from workers.media.limits import ImageLimits
from workers.media.request import ImageRequest
from workers.media.source import decode

pytest.importorskip("pypdfium2")

FIT = Fit(32, 64 * 64, 512 * 512)
LIMITS = ImageLimits(2**20, 10**7, FIT.max_pixels, FIT, max_pages=3, pdf=True)
A4 = (595, 842)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    decoder = Decoder(LIMITS)
    decoder.wait_ready()
    yield decoder
    decoder.close()


def page(number: int = 0) -> tuple[float, float, str]:
    """A page of a size of its own with a red box at the upper left."""
    return 400 + 100 * number, 600, red_box(0, 300, 200, 300)


def array(image: RGBImage) -> np.ndarray[Any, Any]:
    return np.asarray(image.pil).astype(int)


def test_pages_are_images_with_their_number_in_their_order(decoder: Decoder) -> None:
    images = decoder.decode(pdf([page(0), page(1), page(2)]))

    assert [(image.page, image.pages) for image in images] == [(1, 3), (2, 3), (3, 3)]
    assert [(image.source_width, image.source_height) for image in images] == [(400, 600), (500, 600), (600, 600)]
    for image in images:
        pixels = array(image)
        assert pixels[2, 2].tolist() == [255, 0, 0]
        assert pixels[-2, -2].tolist() == [255, 255, 255]
    assert len({image.digest for image in images}) == 3


def test_a_page_is_rendered_at_the_largest_size_that_the_model_sees(decoder: Decoder) -> None:
    for size in (A4, (20, 30), (3000, 1000)):
        [image] = decoder.decode(pdf([(*size, "")]))
        assert image.width % 32 == image.height % 32 == 0
        assert 0.85 * FIT.max_pixels < image.width * image.height <= FIT.max_pixels
        assert image.width / image.height == pytest.approx(size[0] / size[1], rel=0.1)


def test_edges_are_as_sharp_as_pixels_allow(decoder: Decoder) -> None:
    [image] = decoder.decode(pdf([(512, 512, red_box(0, 0, 256, 512))]))

    assert (image.width, image.height) == (512, 512)
    row = array(image)[256, :, 1]
    assert (row[:255] == 0).all()
    assert (row[257:] == 255).all()


def test_without_a_fit_a_page_is_large_enough_for_the_models_processor() -> None:
    [decoded] = decode(pdf([(*A4, "")]), replace(LIMITS, fit=None))

    assert 3.9 * FIT.max_pixels < decoded.image.width * decoded.image.height <= 4 * FIT.max_pixels


@pytest.mark.parametrize(
    ("pages", "expected"), [((2, 3), [2, 3]), ((5, 5), [5]), ((1, 3), [1, 2, 3])], ids=["2-3", "5", "1-3"]
)
def test_some_pages_can_be_asked_for(decoder: Decoder, pages: tuple[int, int], expected: list[int]) -> None:
    data = pdf([(400, 600, red_box(0, 0, 10 + number, 10)) for number in range(5)])

    images = decoder.decode(data, request=ImageRequest(data, pages=pages))

    assert [image.page for image in images] == expected
    assert {image.pages for image in images} == {5}


@pytest.mark.parametrize(
    ("pages", "words"),
    [
        (None, r"more than 3 pages \(VQA_IMAGE_MAX_PAGES\); ask for some of them \(`pages`\)"),
        ((1, 4), r"pages 1-4 are more than 3 \(VQA_IMAGE_MAX_PAGES\)"),
        ((5, 6), "pages 5-6: the file has 5"),
        ((3, 2), "the last comes before the first"),
    ],
    ids=["all", "many", "none", "backwards"],
)
def test_pages_that_are_too_many_or_not_there_are_refused(
    decoder: Decoder, pages: tuple[int, int] | None, words: str
) -> None:
    data = pdf([page()] * 5)
    with pytest.raises(BadImage, match=words):
        decoder.decode(data, request=ImageRequest(data, pages=pages))


def test_without_the_setting_a_document_is_refused_by_its_name() -> None:
    with pytest.raises(BadImage, match=r"PDF files are not taken here \(VQA_PDF=1"):
        decode(pdf([page()]), replace(LIMITS, pdf=False))


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **how: Any) -> Any:
        if name == "pypdfium2":
            raise ImportError(name)
        return real(name, *args, **how)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BadImage, match=r"vqa-queue\[pdf\]"):
        decode(pdf([page()]), LIMITS)


def encrypted() -> bytes:
    """A document that asks for a password: the hash of the user's is that of no empty one (PDF 1.7, 7.6.3)."""
    digest = hashlib.sha256(b"some").hexdigest()
    encryption = f"<< /Filter /Standard /V 1 /R 2 /O <{digest}> /U <{digest}> /P -4 >>"
    return pdf([page()], f"/Encrypt 5 0 R /ID [<{digest[:32]}> <{digest[:32]}>]", [encryption])


def test_an_encrypted_document_is_refused_by_that_name(decoder: Decoder) -> None:
    with pytest.raises(BadImage, match="the PDF document is encrypted"):
        decoder.decode(encrypted())


def test_a_page_that_is_a_sliver_is_refused(decoder: Decoder) -> None:
    with pytest.raises(BadImage, match="VQA_IMAGE_MAX_ASPECT"):
        decoder.decode(pdf([(14_000, 20, "")]))


@pytest.mark.parametrize("cut", [9, 60, 300], ids=str)
def test_a_document_that_ends_early_is_refused_or_repaired(decoder: Decoder, cut: int) -> None:
    with pytest.raises(BadImage, match="PDF document cannot be read"):
        decoder.decode(pdf([page()])[:cut])


def test_the_decoder_opens_no_file_that_a_document_names(decoder: Decoder, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"1 0 0 rg 0 0 400 600 re f")
    content = f"<< /Length 0 /F ({tmp_path}/secret) >>\nstream\n\nendstream"
    data = pdf([(400, 600, "")], objects=[content]).replace(b"/Contents 4 0 R", b"/Contents 5 0 R")

    [image] = decoder.decode(data)

    assert (array(image) == 255).all()
