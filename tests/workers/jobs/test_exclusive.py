import threading
from contextlib import ExitStack

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.jobs.exclusive import SharedLock

WAIT_S = 10.0


def test_an_exclusive_holder_waits_for_the_others_and_goes_before_later_ones() -> None:
    lock = SharedLock()
    order: list[str] = []
    first_may_go, exclusive_may_go = threading.Event(), threading.Event()
    inside = threading.Event()

    def run(name: str, alone: bool, gate: threading.Event | None) -> None:
        with lock.exclusive() if alone else lock.shared():
            order.append(name)
            inside.set()
            assert gate is None or gate.wait(WAIT_S)

    threads = [threading.Thread(target=run, args=("first", False, first_may_go))]
    threads[0].start()
    assert inside.wait(WAIT_S)
    inside.clear()
    threads.append(threading.Thread(target=run, args=("exclusive", True, exclusive_may_go)))
    threads[1].start()
    while not lock._waiting:
        pass
    threads.append(threading.Thread(target=run, args=("later", False, None)))
    threads[2].start()
    assert order == ["first"]
    first_may_go.set()
    assert inside.wait(WAIT_S)
    assert order == ["first", "exclusive"]
    exclusive_may_go.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert order == ["first", "exclusive", "later"]


@settings(deadline=None, max_examples=20)
@given(wishes=st.lists(st.booleans(), min_size=1, max_size=30))
def test_an_exclusive_holder_is_alone(wishes: list[bool]) -> None:
    lock = SharedLock()
    present_lock = threading.Lock()
    present: list[bool] = []
    broken: list[list[bool]] = []

    def run(alone: bool) -> None:
        with lock.exclusive() if alone else lock.shared():
            with present_lock:
                present.append(alone)
                if any(present) and len(present) > 1:
                    broken.append(list(present))
            threading.Event().wait(0.001)
            with present_lock:
                present.remove(alone)

    threads = [threading.Thread(target=run, args=(alone,)) for alone in wishes]
    with ExitStack() as stack:
        for thread in threads:
            thread.start()
            stack.callback(thread.join, WAIT_S)
    assert broken == []
    assert not any(thread.is_alive() for thread in threads)
