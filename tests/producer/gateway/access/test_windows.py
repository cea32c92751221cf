"""What is left of a limit, and when there is enough."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.gateway.access.windows import Window, duration

LENGTH_S = 60.0

counts = st.integers(0, 1000)
windows = st.builds(
    Window,
    limit=st.integers(1, 1000),
    length_s=st.just(LENGTH_S),
    previous=counts,
    current=counts,
    left_s=st.floats(0.001, LENGTH_S),
)


def later(window: Window, seconds: float) -> Window:
    """The window after a time in which nothing was used."""
    previous, current, left_s = window.previous, window.current, window.left_s - seconds
    while left_s <= 0:
        previous, current, left_s = current, 0, left_s + LENGTH_S
    return Window(window.limit, LENGTH_S, previous, current, left_s)


def fits(window: Window, amount: int) -> bool:
    return window.used + amount <= window.limit


@given(window=windows, amount=st.integers(1, 1000))
def test_after_the_wait_there_is_room_and_not_long_before(window: Window, amount: int) -> None:
    wait_s = window.wait_s(amount)
    if amount > window.limit:
        assert wait_s == math.inf
        return
    assert fits(later(window, wait_s), amount)
    assert wait_s < 0.01 or not fits(later(window, wait_s - 0.01), amount)


@given(window=windows)
def test_after_the_reset_nothing_is_used_and_before_something_is(window: Window) -> None:
    assert later(window, window.reset_s).used == 0
    assert window.reset_s == 0 or window.previous or window.current
    assert window.remaining == max(0, window.limit - window.used)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0ms"), (0.0201, "21ms"), (1, "1s"), (8.2, "9s"), (360, "6m0s"), (3600, "1h0m0s"), (86_399, "23h59m59s")],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, told: str) -> None:
    assert duration(seconds) == told
