from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.engine.continuous.lengths import Lengths


def common(*lengths: int) -> Lengths:
    """After many of these."""
    counted = Lengths()
    for _ in range(100):
        counted.runs(lengths)
    return counted


def test_a_length_is_planned_for_once_it_is_common() -> None:
    counted = Lengths()
    first = [bool(counted.runs([768])) for _ in range(100)]

    assert not first[0]
    assert first == sorted(first)
    assert first[-1]


def test_one_that_is_rare_keeps_all_from_being_taken_by_their_lengths() -> None:
    counted = common(768, 1024)

    assert counted.runs([768, 1024]) == ((1, 768), (1, 1024))
    assert counted.runs([768, 1000]) == ()


def test_short_sequences_are_never_planned_for() -> None:
    assert common(255).runs([255]) == ()
    assert common(256).runs([256]) == ((1, 256),)


@given(st.lists(st.sampled_from([300, 400, 500]), min_size=1, max_size=40))
def test_runs_are_the_lengths_again_in_their_order_in_powers_of_two(lengths: list[int]) -> None:
    runs = common(300, 400, 500).runs(lengths)

    assert [length for count, length in runs for _ in range(count)] == lengths
    assert {count for count, _ in runs} <= {1, 2, 4, 8}


def test_no_more_plans_are_made_than_are_worth_their_memory() -> None:
    counted = common(*range(300, 400))

    assert sum(bool(counted.runs([length])) for length in range(300, 400)) == 64


def test_lengths_that_are_all_different_are_not_remembered_for_ever() -> None:
    counted = Lengths()
    for length in range(300, 20_000):
        counted.runs([length])

    assert len(counted._seen) <= 4096
