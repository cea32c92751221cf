from __future__ import annotations

from workers.engine.continuous.lengths import Lengths


def common(*lengths: int) -> Lengths:
    """After many of these."""
    counted = Lengths()
    for _ in range(100):
        counted.are_common(lengths)
    return counted


def test_a_length_is_planned_for_once_it_is_common() -> None:
    counted = Lengths()
    first = [counted.are_common([768]) for _ in range(100)]

    assert not first[0]
    assert first == sorted(first)
    assert first[-1]


def test_one_that_is_rare_keeps_all_from_being_taken_by_their_lengths() -> None:
    counted = common(768, 1024)

    assert counted.are_common([768, 1024])
    assert not counted.are_common([768, 1000])


def test_short_sequences_are_never_planned_for() -> None:
    assert not common(255).are_common([255])
    assert common(256).are_common([256])


def test_no_more_plans_are_made_than_are_worth_their_memory() -> None:
    counted = common(*range(300, 400))

    assert sum(counted.are_common([length]) for length in range(300, 400)) == 64


def test_lengths_that_are_all_different_are_not_remembered_for_ever() -> None:
    counted = Lengths()
    for length in range(300, 20_000):
        counted.are_common([length])

    assert len(counted._seen) <= 4096


def test_of_lengths_that_become_common_together_one_is_planned_for_at_a_time() -> None:
    counted = Lengths()
    planned = []
    for _ in range(50):
        counted.are_common([768, 1024, 512])
        planned.append(len(counted._planned))

    assert planned[-1] == 3
    assert max(after - before for before, after in zip([0, *planned], planned, strict=False)) == 1
