from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.base import Phase, Stall
from workers.engine.runtime.heartbeat import LOAD_S, Heartbeat, limit_s

PHASES: list[Phase] = ["load", "prefill", "decode"]
HANG_S = 10.0

steps = st.one_of(
    st.tuples(st.just("pass"), st.floats(0, 3 * LOAD_S)),
    st.tuples(st.sampled_from(PHASES), st.sets(st.sampled_from("abcd"))),
    st.tuples(st.just("park"), st.none()),
)


@given(st.lists(steps, max_size=30))
def test_it_stalls_when_its_last_beat_is_older_than_its_phase_allows(story: list[tuple[str, object]]) -> None:
    now = 0.0
    heartbeat = Heartbeat(HANG_S, lambda: now)
    last: tuple[Phase, tuple[str, ...], float] | None = None

    for what, how in story:
        if what == "pass":
            assert isinstance(how, float)
            now += how
        elif what == "park":
            heartbeat.idle()
            last = None
        else:
            assert isinstance(how, set)
            assert what in PHASES
            heartbeat.beat(what, tuple(how))
            last = (what, tuple(how), now)

        late = last is not None and now - last[2] > limit_s(last[0], HANG_S)
        assert heartbeat.stall() == (Stall(last[0], now - last[2], last[1], limit_s(last[0], HANG_S)) if late else None)
        assert heartbeat.ids == (last[1] if last else ())


@pytest.mark.parametrize("hang_s", [0.1, 60, 86_400])
def test_prefill_may_be_silent_for_longer_than_a_step_and_loading_for_longest(hang_s: float) -> None:
    decode, prefill, load = (limit_s(phase, hang_s) for phase in ("decode", "prefill", "load"))

    assert hang_s == decode < prefill == 5 * decode
    assert load >= decode
    assert limit_s("load", 60) > limit_s("prefill", 60)


def test_a_beat_costs_next_to_nothing() -> None:
    heartbeat, ids = Heartbeat(HANG_S), tuple("abcdefgh")
    started = time.thread_time()
    for _ in range(100_000):
        heartbeat.beat("decode", ids)

    # 0.2 us when measured; a step takes milliseconds
    assert time.thread_time() - started < 100_000 * 5e-6
