import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqa import SettingsError
from vqa.jobs.lane import LANES
from workers.engine.fair_share import BULK_TURN, LINGER_S, FairShare, Reserve
from workers.engine.settings import EngineSettings


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_reserved_until_an_interactive_job_comes_and_again_ten_minutes_after_the_last() -> None:
    clock = Clock()
    reserve = Reserve(2, always=False, clock=clock)
    assert reserve.places == 0
    reserve.saw("bulk")
    assert reserve.places == 0
    reserve.saw("interactive")
    clock.now += LINGER_S - 1
    assert reserve.places == 2
    reserve.saw("interactive")
    clock.now += LINGER_S - 1
    assert reserve.places == 2
    clock.now += 1
    assert reserve.places == 0


def test_what_was_asked_for_is_reserved_always() -> None:
    assert Reserve(2).places == 2


@pytest.mark.parametrize(("slots", "kept"), [(1, 0), (3, 0), (4, 1), (15, 1), (16, 2), (47, 2), (48, 3), (128, 8)])
def test_a_few_slots_are_reserved_where_nobody_says_otherwise(slots: int, kept: int) -> None:
    assert EngineSettings(engine="echo").reserve_of(slots) == kept
    reserve = Reserve.from_settings(EngineSettings(engine="echo"), slots)
    assert reserve.places == 0
    reserve.saw("interactive")
    assert reserve.places == kept


def test_what_the_setting_says_is_reserved_and_all_slots_are_refused() -> None:
    settings = EngineSettings(engine="echo", reserved_slots=3)
    assert Reserve.from_settings(settings, 4).places == 3
    assert Reserve.from_settings(EngineSettings(engine="echo", reserved_slots=0), 16).places == 0
    with pytest.raises(SettingsError, match="VQA_RESERVED_SLOTS=3: of 3 slots at most 2 can be reserved"):
        Reserve.from_settings(settings, 3)


@given(most=st.integers(1, 20), places=st.integers(0, 30), taken=st.integers(0, 20), share=st.floats(0, 1))
def test_bulk_leaves_the_reserve_free_but_can_always_begin(most: int, places: int, taken: int, share: float) -> None:
    taken = min(taken, most)
    bulk = round(share * taken)
    reserve = Reserve(places)
    left = max(1, most - places)
    assert reserve.admits_bulk(most, taken, bulk, due=False) == (taken < left)
    assert reserve.admits_bulk(most, taken, bulk, due=True) == (bulk < left and taken < most)
    assert reserve.admits_bulk(most, 0, 0, due=False)


@given(st.lists(st.tuples(st.sampled_from(LANES), st.booleans()), min_size=1))
def test_interactive_goes_first_and_every_twentieth_turn_is_bulk_s_while_it_waits(
    turns: list[tuple[str, bool]],
) -> None:
    share = FairShare()
    passed = 0
    for served, bulk_waits in turns:
        due = passed == BULK_TURN - 1
        assert share.is_due("bulk") == due
        assert share.order(LANES) == ["bulk", "interactive"] if due else list(LANES)
        assert not share.is_due("interactive")
        assert share.order({"bulk"}) == ["bulk"]
        if due:
            served = "bulk"
        share.served(served, {"interactive", "bulk"} if bulk_waits else {"interactive"})
        passed = passed + 1 if bulk_waits and served == "interactive" else 0


@given(st.sets(st.sampled_from("abcd"), min_size=1))
def test_every_lane_gets_its_turn(waiting: set[str]) -> None:
    share = FairShare("abc")
    served = []
    for _ in range(4 * BULK_TURN):
        lane = share.order(waiting)[0]
        share.served(lane, waiting)
        served.append(lane)
    assert served[: BULK_TURN - 1] == [min(waiting)] * (BULK_TURN - 1)
    assert set(served) == waiting


def test_of_three_lanes_that_always_wait_none_starves() -> None:
    lanes = ("first", "second", "third")
    share = FairShare(lanes)
    served: list[str] = []
    for _ in range(10 * BULK_TURN):
        served.append(share.order(lanes)[0])
        share.served(served[-1], lanes)

    for start in range(len(served) - 2 * BULK_TURN):
        assert set(served[start : start + 2 * BULK_TURN]) == set(lanes)
