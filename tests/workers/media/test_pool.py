from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psutil
import pytest
from PIL import Image

from vqa.errors import BadImage, DeadlineExceeded, EngineError, ImageMissing, NotReady
from vqa.images.fit import Fit
from workers.media.image import ImageLimits, decode
from workers.media.pool import DecoderPool
from workers.settings import WorkerSettings

SOON = 60
LIMITS = (20 * 2**20, 50_000_000, 1024 * 1024)


def png(width: int = 60, height: int = 40) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((width, height), 60).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def media() -> Iterator[DecoderPool]:
    media = DecoderPool(2, *LIMITS)
    yield media
    media.close()


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

    images = media.decode([png(*size) for size in sizes])

    assert [(image.width, image.height) for image in images] == sizes
    assert media.decode([]) == []


def test_64_images_of_one_job_are_each_their_own(media: DecoderPool) -> None:
    data = [png(50 + number, 90 - number) for number in range(64)]

    images = media.decode(data)

    assert [image.pixels for image in images] == [decode(one, ImageLimits(*LIMITS)).image.tobytes() for one in data]


def test_with_a_fit_images_have_the_models_size() -> None:
    media = DecoderPool(1, *LIMITS, Fit(32, 64 * 64, 256 * 256))

    [small, large] = media.decode([png(10, 10), png(900, 300)])

    assert (small.width, small.height) == (64, 64)
    assert (large.width, large.height) == (416, 128)
    media.close()


def test_one_bad_image_is_told_and_the_next_call_works(media: DecoderPool) -> None:
    with pytest.raises(BadImage):
        media.decode([png(), b"no image", png()])
    assert len(media.decode([png()])) == 1


def test_every_process_is_there_before_the_first_image_and_used_after_it(media: DecoderPool) -> None:
    before = {child.pid for child in children()}
    assert len(before) == 2

    with ThreadPoolExecutor(8) as callers:
        assert len(list(callers.map(media.decode, [[png(400, 400)]] * 40))) == 40
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
    images = media.decode(data)
    for killer in killers:
        killer.join(SOON)

    assert [image.width for image in images] == [700 + number for number in range(32)]
    assert not {pid for pid, _ in killing} & {child.pid for child in children()}


def test_a_image_that_hangs_holds_up_no_other(media: DecoderPool) -> None:
    one, other = children()
    for child in (one, other):
        child.suspend()
    with ThreadPoolExecutor(2) as callers:
        waiting = [callers.submit(media.decode, [png()]) for _ in range(2)]
        one.resume()
        wait_until(lambda: sum(call.done() for call in waiting) == 1)

        assert len(media.decode([png()] * 10)) == 10
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
    images = media.decode(data)
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
    assert len(media.decode(references, fetch=fetch)) == 21
    assert media.plan.encoded_bytes == 4 * LIMITS[0]


def test_an_image_that_cannot_be_fetched_fails_its_job_alone(media: DecoderPool) -> None:
    def fetch(reference: str) -> bytes:
        raise ImageMissing(reference)

    with pytest.raises(ImageMissing, match="gone"):
        media.decode([png(), "gone"], fetch=fetch)
    assert len(media.decode([png()])) == 1


def test_jobs_wait_for_memory_for_their_images_and_words_do_not(media: DecoderPool) -> None:
    most = media.plan.pixel_bytes // media.plan.image_bytes
    with media.holding(most):
        with media.holding(0):
            pass
        with pytest.raises(DeadlineExceeded, match="memory for the job's images"), media.holding(1, time.monotonic()):
            pass
        with ThreadPoolExecutor(1) as other:
            waiting = other.submit(media.holding(1).__enter__)
            assert not waiting.done()
            media.close()
            assert isinstance(waiting.exception(SOON), EngineError)


def test_an_image_waits_while_others_are_decoded_in_all_the_memory_there_is(media: DecoderPool) -> None:
    with media._decoding.holding(media.plan.decoding_bytes), pytest.raises(DeadlineExceeded):
        media.decode([png()], deadline=time.monotonic() + 0.5)

    assert len(media.decode([png()])) == 1


def test_a_deadline_ends_the_wait(media: DecoderPool) -> None:
    for child in children():
        child.suspend()

    with pytest.raises(DeadlineExceeded):
        media.decode([png()] * 3, deadline=time.monotonic() + 0.05)
    for child in children():
        child.resume()
    assert len(media.decode([png()])) == 1


def test_closing_ends_what_waits_and_leaves_no_process(media: DecoderPool) -> None:
    for child in children():
        child.suspend()
    with ThreadPoolExecutor(2) as callers:
        waiting = [callers.submit(media.decode, [png()] * 3) for _ in range(2)]
        for _ in range(2):
            media.close()

        assert {type(one.exception(SOON)) for one in waiting} == {EngineError}
    assert children() == []


def test_a_closed_one_lets_the_job_go_to_another_worker(media: DecoderPool) -> None:
    media.close()

    with pytest.raises(EngineError):
        media.decode([png()])


def test_where_no_process_can_start_the_worker_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    with pytest.raises(NotReady, match="No such file"):
        DecoderPool(2, *LIMITS)
    assert children() == []


def test_without_files_in_memory_a_temporary_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    media, data = DecoderPool(1, *LIMITS), png()

    assert media.decode([data])[0].pixels == decode(data, ImageLimits(*LIMITS)).image.tobytes()
    media.close()


def test_there_are_as_many_processes_as_the_cores_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in ((1, 2), (2, 2), (8, 4), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert WorkerSettings().decoders == expected
    assert WorkerSettings(media_processes=1).decoders == 1
