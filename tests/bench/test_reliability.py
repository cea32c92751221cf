"""The table of how often answers of some probability are right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.reliability import Bin, bins, calibration_error, table


def test_answers_are_grouped_by_their_probability() -> None:
    found = bins([(1.0, True), (0.95, False), (0.9, True), (0.4, False), (0.0, False)])
    assert found == [
        Bin(0.0, 0.1, 1, 0.0, 0.0),
        Bin(0.3, 0.4, 1, 0.4, 0.0),
        Bin(0.8, 0.9, 1, 0.9, 1.0),
        Bin(0.9, 1.0, 2, pytest.approx(0.975), 0.5),
    ]
    assert calibration_error(found) == pytest.approx((0.4 + 0.1 + 2 * 0.475) / 5)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1))
def test_no_answer_is_lost(answers: list[tuple[float, bool]]) -> None:
    found = bins(answers)
    assert sum(each.count for each in found) == len(answers)
    assert all(each.low - 1e-9 <= each.confidence <= each.high + 1e-9 for each in found)
    assert 0 <= calibration_error(found) <= 1


def test_answers_as_sure_as_they_are_right_are_calibrated() -> None:
    answers = [(0.75, number % 4 > 0) for number in range(40)]
    assert calibration_error(bins(answers)) == pytest.approx(0)
    assert list(table(answers)) == [
        "probability   answers    mean   right",
        "0.7 to 0.8         40   75.0%   75.0%",
        "expected calibration error: 0.00% of 40 answers",
    ]
