from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import psutil
import pytest
from PIL import Image

from vqa.errors import BadImage, DeadlineExceeded, EngineError, ImageMissing, NotReady
from vqa.images.fit import Fit
from vqa.images.video_fit import VideoFit
from workers.engine.image import RGBImage
from workers.media.limits import ImageLimits
from workers.media.pool import DecoderPool
from workers.media.request import ImageRequest, VideoSampling
from workers.media.source import decode
from workers.settings import WorkerSettings

SOON = 60
LIMITS = ImageLimits(20 * 2**20, 50_000_000, 1024 * 1024)


def png(width: int = 60, height: int = 40) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((width, height), 60).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def media() -> Iterator[DecoderPool]:
    media = DecoderPool(2, LIMITS)
    yield media
    media.close()


def decoded(media: DecoderPool, contents: Sequence[bytes | str], **how: Any) -> list[RGBImage]:
    """Decode files of one image each."""
    images = media.decode([ImageRequest(content) for content in contents], **how)
    assert all(len(each) == 1 for each in images)
    return [image for (image,) in images]


def children() -> list[psutil.Process]:
    """This process's decoders."""
    return [child for child in psutil.Process().children() if "workers.media.decoder_child" in child.cmdline()]


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it has not come about"
        time.sleep(0.005)


def test_images_come_in_their_order(media: DecoderPool) -> None:
    sizes = [(10 + number, 20) for number in range(8)]

    images = decoded(media, [png(*size) for size in sizes])

    assert [(image.width, image.height) for image in images] == sizes
    assert decoded(media, []) == []


def test_64_images_of_one_job_are_each_their_own(media: DecoderPool) -> None:
    data = [png(50 + number, 90 - number) for number in range(64)]

    images = decoded(media, data)

    assert [image.pixels for image in images] == [decode(one, LIMITS)[0].image.tobytes() for one in data]


def test_with_a_fit_images_have_the_models_size() -> None:
    media = DecoderPool(1, replace(LIMITS, fit=Fit(32, 64 * 64, 256 * 256)))

    [small, large] = decoded(media, [png(10, 10), png(900, 300)])

    assert (small.width, small.height) == (64, 64)
    assert (large.width, large.height) == (416, 128)
    media.close()


def test_one_bad_image_is_told_and_the_next_call_works(media: DecoderPool) -> None:
    with pytest.raises(BadImage):
        decoded(media, [png(), b"no image", png()])
    assert len(decoded(media, [png()])) == 1


def test_an_image_is_decoded_while_many_videos_wait(media: DecoderPool) -> None:
    coming = threading.Event()

    def fetch(reference: str) -> bytes:
        assert coming.wait(SOON)
        return b"no video"

    videos = [ImageRequest("clip", video=VideoSampling(2, 64, VideoFit(32, 4096, 65_536)))] * 16
    with ThreadPoolExecutor(1) as callers:
        waiting = callers.submit(media.decode, videos, fetch=fetch)
        assert len(decoded(media, [png()], deadline=time.monotonic() + SOON)) == 1
        assert not waiting.done()
        coming.set()
        assert isinstance(waiting.exception(SOON), BadImage)


def test_videos_with_more_pixels_than_there_is_memory_for_are_refused(media: DecoderPool) -> None:
    sampling = [VideoSampling(1 + number / 100, 64, VideoFit(32, 4096, 25_165_824)) for number in range(32)]
    requests = [ImageRequest(b"no video", video=each) for each in sampling]

    with pytest.raises(BadImage, match="videos may have 2,304 MiB of pixels; the worker has memory for 768 MiB"):
        media.decoded(requests).__enter__()
    with pytest.raises(BadImage, match="not an image"):
        media.decoded([replace(request, max_pixels=4096) for request in requests]).__enter__()


def test_every_process_is_there_before_the_first_image_and_used_after_it(media: DecoderPool) -> None:
    before = {child.pid for child in children()}
    assert len(before) == 2

    with ThreadPoolExecutor(8) as callers:
        assert len(list(callers.map(partial(decoded, media), [[png(400, 400)]] * 40))) == 40
    assert {child.pid for child in children()} == before
    assert all(child.cpu_times().user > 0 for child in children())


def test_children_that_are_killed_at_work_cost_nobody_a_image(media: DecoderPool) -> None:
    data = [png(700 + number, 700) for number in range(32)]
    killing = [(child.pid, child.cpu_times().user) for child in children()]

    def kill_at_work(pid: int, before_s: float) -> None:
        wait_until(lambda: psutil.Process(pid).cpu_times().user > before_s + 0.05)
        os.kill(pid, signal.SIGKILL)

    killers = [threading.Thread(target=kill_at_work, args=one) for one in killing]
    for killer in killers:
        killer.start()
    images = decoded(media, data)
    for killer in killers:
        killer.join(SOON)

    assert [image.width for image in images] == [700 + number for number in range(32)]
    assert not {pid for pid, _ in killing} & {child.pid for child in children()}


def test_a_image_that_hangs_holds_up_no_other(media: DecoderPool) -> None:
    one, other = children()
    for child in (one, other):
        child.suspend()
    with ThreadPoolExecutor(2) as callers:
        waiting = [callers.submit(decoded, media, [png()]) for _ in range(2)]
        one.resume()
        wait_until(lambda: sum(call.done() for call in waiting) == 1)

        assert len(decoded(media, [png()] * 10)) == 10
        assert sum(call.done() for call in waiting) == 1
        other.resume()
        assert [len(call.result(SOON)) for call in waiting] == [1, 1]


def test_children_that_are_killed_again_and_again_cost_nobody_an_image(media: DecoderPool) -> None:
    data = [png(700 + number, 700) for number in range(12)]
    done = threading.Event()

    def kill() -> None:
        while not done.wait(0.15):
            # one may end, and be replaced, meanwhile
            with suppress(psutil.Error):
                for child in children():
                    child.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    # two kills in a row at an image that takes a tenth of a second were the job's failed attempt
    killed = threading.Timer(3.0, done.set)
    killed.start()
    images = decoded(media, data)
    done.set()
    killer.join(SOON)
    killed.cancel()

    assert [image.width for image in images] == [700 + number for number in range(12)]


def test_images_are_fetched_few_at_a_time_by_the_threads_that_wait_for_them(media: DecoderPool) -> None:
    held, most, lock = 0, 0, threading.Lock()
    data = png()
    for child in children():
        child.suspend()

    def fetch(reference: str) -> bytes:
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        if reference == "first":
            wait_until(lambda: held == 4)
            for child in children():
                child.resume()
        return data

    references = ["first", *map(str, range(20))]
    assert len(decoded(media, references, fetch=fetch)) == 21
    assert media.plan.encoded_bytes == 4 * LIMITS.max_bytes


def test_an_image_that_cannot_be_fetched_fails_its_job_alone(media: DecoderPool) -> None:
    def fetch(reference: str) -> bytes:
        raise ImageMissing(reference)

    with pytest.raises(ImageMissing, match="gone"):
        decoded(media, [png(), "gone"], fetch=fetch)
    assert len(decoded(media, [png()])) == 1


def many_pages(*sizes: tuple[int, int]) -> bytes:
    first, *others = (Image.effect_noise(size, 60) for size in sizes)
    buffer = io.BytesIO()
    first.save(buffer, "TIFF", save_all=True, append_images=others)
    return buffer.getvalue()


def test_jobs_wait_for_memory_for_their_images_and_words_do_not(media: DecoderPool) -> None:
    image = [ImageRequest(png())]
    with media._pixels.holding(media.plan.pixel_bytes):
        with media.decoded([]) as nothing:
            assert nothing == []
        with (
            pytest.raises(DeadlineExceeded, match="memory for the job's images"),
            media.decoded(image, time.monotonic()),
        ):
            pass
        with ThreadPoolExecutor(1) as other:
            waiting = other.submit(media.decoded(image).__enter__)
            assert not waiting.done()
            media.close()
            assert isinstance(waiting.exception(SOON), EngineError)


@pytest.mark.parametrize("max_pixels", [None, 64 * 64])
def test_a_job_holds_memory_for_the_sizes_that_it_asks_for(media: DecoderPool, max_pixels: int | None) -> None:
    requests = [ImageRequest(png(), max_pixels) for _ in range(3)]
    each = 3 * 4 * (max_pixels or LIMITS.useful_pixels)

    with media.decoded(requests):
        assert media._pixels._free == media.plan.pixel_bytes - 3 * each
    assert media._pixels._free == media.plan.pixel_bytes


def test_a_job_with_pages_holds_memory_for_each_and_gets_all(media: DecoderPool) -> None:
    requests = [ImageRequest(png()), ImageRequest(many_pages((30, 20), (40, 50), (60, 10)))]

    with media.decoded(requests) as [(single,), pages]:
        assert (single.page, single.pages) == (1, 1)
        assert [(page.width, page.height, page.page, page.pages) for page in pages] == [
            (30, 20, 1, 3),
            (40, 50, 2, 3),
            (60, 10, 3, 3),
        ]
        assert len({page.digest for page in pages}) == 3
        assert media._pixels._free == media.plan.pixel_bytes - 4 * LIMITS.image_bytes
    assert media._pixels._free == media.plan.pixel_bytes


def test_jobs_whose_files_turn_out_to_have_pages_do_not_wait_for_each_other_for_ever(media: DecoderPool) -> None:
    # each job's pages take nearly all of the memory
    requests = [ImageRequest(many_pages(*[(20, 20)] * 15)) for _ in range(4)]

    def ask(_: int) -> int:
        with media.decoded(requests, time.monotonic() + SOON) as images:
            return sum(map(len, images))

    with ThreadPoolExecutor(4) as callers:
        assert list(callers.map(ask, range(8))) == [60] * 8


def test_pages_count_as_images_of_the_job() -> None:
    media = DecoderPool(1, replace(LIMITS, max_images=4))
    pages = ImageRequest(many_pages((30, 20), (40, 50), (60, 10)))

    with pytest.raises(BadImage, match=r"6 images, each page counted; the limit is 4 \(VQA_IMAGE_MAX_COUNT\)"):
        media.decode([pages, pages])
    with pytest.raises(BadImage, match="VQA_IMAGE_MAX_COUNT"), media.decoded([pages, pages]):
        pass
    assert len(media.decode([pages, ImageRequest(png())])) == 2
    media.close()


def test_an_image_waits_while_others_are_decoded_in_all_the_memory_there_is(media: DecoderPool) -> None:
    with media._decoding.holding(media.plan.decoding_bytes), pytest.raises(DeadlineExceeded):
        decoded(media, [png()], deadline=time.monotonic() + 0.5)

    assert len(decoded(media, [png()])) == 1


def test_a_deadline_ends_the_wait(media: DecoderPool) -> None:
    for child in children():
        child.suspend()

    with pytest.raises(DeadlineExceeded):
        decoded(media, [png()] * 3, deadline=time.monotonic() + 0.05)
    for child in children():
        child.resume()
    assert len(decoded(media, [png()])) == 1


def test_closing_ends_what_waits_and_leaves_no_process(media: DecoderPool) -> None:
    for child in children():
        child.suspend()
    with ThreadPoolExecutor(2) as callers:
        waiting = [callers.submit(decoded, media, [png()] * 3) for _ in range(2)]
        for _ in range(2):
            media.close()

        assert {type(one.exception(SOON)) for one in waiting} == {EngineError}
    assert children() == []


def test_a_closed_one_lets_the_job_go_to_another_worker(media: DecoderPool) -> None:
    media.close()

    with pytest.raises(EngineError):
        decoded(media, [png()])


def test_where_no_process_can_start_the_worker_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    with pytest.raises(NotReady, match="No such file"):
        DecoderPool(2, LIMITS)
    assert children() == []


def test_without_files_in_memory_a_temporary_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    media, data = DecoderPool(1, LIMITS), png()

    assert decoded(media, [data])[0].pixels == decode(data, LIMITS)[0].image.tobytes()
    media.close()


def test_there_are_as_many_processes_as_the_cores_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in ((1, 2), (2, 2), (8, 4), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert WorkerSettings().decoders == expected
    assert WorkerSettings(media_processes=1).decoders == 1
