"""Which of a worker's jobs compute: few at a time, the oldest first, and none that waits."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from workers.jobs.permits import Gate, Permit, Permits

SOON = 10.0


def wait_until(done: Callable[[], bool]) -> None:
    until = time.monotonic() + SOON
    while not done():
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as threads:
        yield threads


@contextmanager
def full(gate: Gate, permits: int) -> Iterator[None]:
    """Take all permits of a gate."""
    for _ in range(permits):
        assert gate.enter((False, -1))
    yield
    for _ in range(permits):
        gate.leave()


def waiting(gate: Gate, count: int) -> None:
    wait_until(lambda: len(gate._waiting) == count)


def test_the_oldest_job_is_let_in_first_whoever_asks_first_and_interactive_before_bulk(
    threads: ThreadPoolExecutor,
) -> None:
    gate, entered = Gate(permits=1), []

    def ask(rank: tuple[bool, int]) -> None:
        gate.enter(rank)
        entered.append(rank)
        gate.leave()

    ranks = [(True, 3), (True, 1), (False, 4), (True, 2), (False, 5)]
    with full(gate, 1):
        futures: list[Future[None]] = []
        for number, rank in enumerate(ranks, 1):
            futures.append(threads.submit(ask, rank))
            waiting(gate, number)
    for future in futures:
        future.result(SOON)
    assert entered == sorted(ranks)


def test_no_more_compute_at_once_than_there_are_permits(threads: ThreadPoolExecutor) -> None:
    gate, lock, inside = Gate(permits=2), threading.Lock(), [0, 0]

    def compute(number: int) -> None:
        assert gate.enter((True, number))
        with lock:
            inside[0] += 1
            inside[1] = max(inside)
        time.sleep(0)
        with lock:
            inside[0] -= 1
        gate.leave()

    list(threads.map(compute, range(200)))
    assert inside == [0, 2]
    assert gate._free == 2


def test_whoever_waited_too_long_computes_without_a_permit_and_gives_none_back(threads: ThreadPoolExecutor) -> None:
    gate = Gate(permits=1, patience_s=0.01)
    with full(gate, 1):
        assert not gate.enter((True, 1))
        assert not gate._waiting
    assert gate._free == 1


def test_jobs_that_hang_while_they_fetch_or_wait_for_the_engine_hold_up_nobody(threads: ThreadPoolExecutor) -> None:
    permits, answered = Permits(), threading.Event()

    def hang(while_: str) -> None:
        permit = permits.next("bulk")
        with permit.computing(), getattr(permit, while_)():
            assert answered.wait(SOON)

    stuck = [threads.submit(hang, while_) for while_ in ("waiting", "answered") * 10]

    def answer() -> None:
        permit = permits.next("bulk")
        with permit.computing():
            with permit.waiting():
                pass
            with permit.answered():
                pass

    for _ in range(5):
        threads.submit(answer).result(SOON)
    assert not any(future.done() for future in stuck)
    answered.set()
    for future in stuck:
        future.result(SOON)
    assert permits._preparing._free == permits._finishing._free == Gate()._free


def test_a_job_that_fails_gives_its_permit_back() -> None:
    permits = Permits()
    for while_ in ("waiting", "answered"):
        permit = permits.next("bulk")
        with pytest.raises(LookupError), permit.computing(), getattr(permit, while_)():
            raise LookupError
    assert permits._preparing._free == permits._finishing._free == Gate()._free


def run_at_random(permit: Permit, random: random.Random) -> None:
    """Wait and finish some times, and end with an answer or an error, which may be one that ends threads."""
    with suppress(LookupError, SystemExit), permit.computing():
        for _ in range(random.randrange(4)):
            with getattr(permit, random.choice(["waiting", "answered"]))():
                time.sleep(random.choice([0, 0.0007]))
                if random.random() < 0.2:
                    raise LookupError
            time.sleep(random.choice([0, 0.0007]))
        if random.random() < 0.2:
            raise SystemExit


@pytest.mark.parametrize("seed", range(20))
def test_no_permit_is_lost_however_jobs_wait_fail_and_give_up_waiting(threads: ThreadPoolExecutor, seed: int) -> None:
    permits, patience_s = 1 + seed % 3, [0.0005, 0.002, SOON][seed // 3 % 3]
    preparing, finishing = Gate(permits, patience_s), Gate(permits, patience_s)

    def job(number: int) -> None:
        permit = Permit(preparing, finishing, (number % 3 > 0, number))
        run_at_random(permit, random.Random(1000 * seed + number))

    for future in [threads.submit(job, number) for number in range(60)]:
        future.result(SOON)
    for gate in (preparing, finishing):
        assert gate._free == permits
        assert not gate._waiting
