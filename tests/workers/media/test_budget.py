from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqa.errors import DeadlineExceeded
from vqa.images.fit import Fit
from workers.media.budget import Budget, MediaPlan
from workers.media.limits import ImageLimits

SOON = 60


@given(total=st.integers(1, 20), amounts=st.lists(st.integers(0, 30), min_size=1, max_size=30))
@settings(deadline=None, max_examples=30)
def test_never_more_is_held_than_there_is_and_everybody_gets_theirs(total: int, amounts: list[int]) -> None:
    budget, lock = Budget(total), threading.Lock()
    held, most = 0, 0

    def use(amount: int) -> None:
        nonlocal held, most
        with budget.holding(amount):
            with lock:
                held += min(amount, total)
                most = max(most, held)
            time.sleep(random.uniform(0, 0.001))
            with lock:
                held -= min(amount, total)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, amounts, timeout=SOON))

    assert held == 0
    assert most <= total


def test_who_wants_much_is_not_overtaken_for_ever_and_who_gives_up_holds_nobody_up() -> None:
    budget, order = Budget(10), list[str]()

    def use(name: str, amount: int) -> None:
        with budget.holding(amount):
            order.append(name)

    with ThreadPoolExecutor(2) as threads, budget.holding(5):
        much = threads.submit(use, "much", 10)
        while not budget._queue:
            time.sleep(0.001)
        # there is room for it, and another was first
        with pytest.raises(DeadlineExceeded), budget.holding(1, time.monotonic() + 0.05):
            pass
        little = threads.submit(use, "little", 1)
        assert not little.done()
        assert not much.done()
    much.result(SOON)
    little.result(SOON)

    assert order == ["much", "little"]


def test_the_plan_says_how_much_a_worker_holds() -> None:
    plan = MediaPlan.create(2, threads=20, limits=ImageLimits(20 * 2**20, 50_000_000, 2**20, Fit(32, 4096, 2**20)))

    assert str(plan) == "images: at most 80 MiB encoded, 1,565 MiB while decoded by 2 processes, 240 MiB decoded"


@pytest.mark.parametrize(("threads", "mib"), [(20, 64 * 12), (160, 4 * 160 * 3)])
def test_the_plan_holds_one_job_of_the_highest_detail_and_usual_images_for_the_threads(threads: int, mib: int) -> None:
    limits = ImageLimits(20 * 2**20, 50_000_000, 2**20, Fit(32, 4096, 2**22))

    assert MediaPlan.create(2, threads, limits).pixel_bytes == mib * 2**20
