"""Files that several jobs show are decoded once, as long as one of them holds the image."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from tests.workers.media.test_pool import LIMITS, SOON, many_pages, png, wait_until
from vqa.errors import DeadlineExceeded, ImageMissing
from vqa.images.store import reference
from workers.engine.image import RGBImage
from workers.media.decoder import Decoder
from workers.media.pool import DecoderPool
from workers.media.request import ImageRequest
from workers.media.shared_images import Images, SharedImages

ONE = RGBImage.from_pil(Image.new("RGB", (8, 8)))


@pytest.fixture
def media() -> Iterator[DecoderPool]:
    media = DecoderPool(2, LIMITS)
    yield media
    media.close()


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[ImageRequest]:
    """What has been decoded."""
    requests: list[ImageRequest] = []
    decode = Decoder.decode

    def counted(self: Decoder, data: bytes, admit: object, request: ImageRequest) -> Images:
        requests.append(request)
        return decode(self, data, admit, request)

    monkeypatch.setattr(Decoder, "decode", counted)
    return requests


def test_jobs_about_one_file_decode_it_once_and_again_when_no_job_holds_it(
    media: DecoderPool, decodings: list[ImageRequest]
) -> None:
    data = png()
    with media.decoded([ImageRequest(data)]) as first, media.decoded([ImageRequest(bytes(data))]) as second:
        assert first[0][0] is second[0][0]
        assert len(decodings) == 1
    del first, second
    gc.collect()
    with media.decoded([ImageRequest(data)]):
        assert len(decodings) == 2


def test_jobs_that_come_together_decode_it_once(media: DecoderPool, decodings: list[ImageRequest]) -> None:
    data, held = png(900, 700), threading.Barrier(12)

    def ask(_: int) -> str:
        with media.decoded([ImageRequest("ref")], fetch=lambda reference: data) as [(image,)]:
            # all hold it until the last has it
            held.wait(SOON)
            return image.digest

    with ThreadPoolExecutor(12) as jobs:
        assert len(set(jobs.map(ask, range(12)))) == 1
    assert len(decodings) == 1


def test_another_size_and_other_pages_are_other_images(media: DecoderPool, decodings: list[ImageRequest]) -> None:
    data, pages = png(300, 300), many_pages((30, 20), (40, 50))
    requests = [
        ImageRequest(data),
        ImageRequest(data, max_pixels=64 * 64),
        ImageRequest(pages, pages=(1, 1)),
        ImageRequest(pages, pages=(2, 2)),
    ]
    with media.decoded(requests) as images, media.decoded(requests) as again:
        assert len({image.digest for each in images for image in each}) == 4
        assert [each[0] is other[0] for each, other in zip(images, again, strict=True)] == [True] * 4
    assert len(decodings) == 4


def test_a_job_is_admitted_by_its_own_count_of_pages(media: DecoderPool) -> None:
    requests = [ImageRequest(many_pages((30, 20), (40, 50)))] * 3
    with ThreadPoolExecutor(3) as jobs:
        with_pages = list(jobs.map(lambda request: media.decode([request]), requests))
    assert [len(pages) for [pages] in with_pages] == [2] * 3
    with media.decoded(requests) as images:
        assert [len(each) for each in images] == [2] * 3


def test_a_file_whose_reference_is_its_hash_is_fetched_once(media: DecoderPool) -> None:
    data = png()
    fetched: list[str] = []

    def fetch(name: str) -> bytes:
        fetched.append(name)
        return data

    request = ImageRequest(reference(data))
    with media.decoded([request], fetch=fetch) as first, media.decoded([request], fetch=fetch) as second:
        assert first[0][0] is second[0][0]
        # another size is another image
        media.decode([ImageRequest(reference(data), max_pixels=64 * 64)], fetch=fetch)
    assert len(fetched) == 2
    del first, second
    gc.collect()
    media.decode([request], fetch=fetch)
    assert len(fetched) == 3


def test_a_job_fetches_for_itself_what_another_could_not_fetch(media: DecoderPool) -> None:
    data, waiting, release = png(), threading.Event(), threading.Event()

    def gone(name: str) -> bytes:
        waiting.set()
        assert release.wait(SOON)
        raise ImageMissing(name)

    request = ImageRequest(reference(data))
    with ThreadPoolExecutor(2) as jobs:
        first = jobs.submit(media.decode, [request], fetch=gone)
        assert waiting.wait(SOON)
        second = jobs.submit(media.decode, [request], fetch=lambda name: data)
        release.set()
        assert isinstance(first.exception(SOON), ImageMissing)
        assert len(second.result(SOON)) == 1


def test_every_job_fetches_for_itself_by_another_kind_of_reference(media: DecoderPool) -> None:
    data = png()

    def gone(reference: str) -> bytes:
        raise ImageMissing(reference)

    with media.decoded([ImageRequest("a")], fetch=lambda reference: data), pytest.raises(ImageMissing):
        media.decode([ImageRequest("a")], fetch=gone)


def test_a_job_decodes_for_itself_where_another_one_failed() -> None:
    shared, started, release = SharedImages(), threading.Event(), threading.Event()

    def late(data: bytes) -> Images:
        started.set()
        assert release.wait(SOON)
        raise DeadlineExceeded("this job's own")

    with ThreadPoolExecutor(2) as jobs:
        first = jobs.submit(shared.get, ImageRequest("a"), lambda: b"data", late)
        assert started.wait(SOON)
        second = jobs.submit(shared.get, ImageRequest("b"), lambda: b"data", lambda data: (ONE,))
        assert not second.done()
        release.set()
        assert isinstance(first.exception(SOON), DeadlineExceeded)
        assert second.result(SOON) == (ONE,)
    wait_until(lambda: not shared._decoding)
