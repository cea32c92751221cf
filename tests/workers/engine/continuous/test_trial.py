from __future__ import annotations

import logging
import math

import pytest

from workers.engine.continuous.ops.trial import tried


def test_a_kernel_that_does_the_same_is_used(caplog: pytest.LogCaptureFixture) -> None:
    assert tried(lambda: "kernel", lambda kernel: 0.003, "slower") == "kernel"
    assert not caplog.records


def test_a_kernel_that_is_not_meant_for_this_is_not_tried(caplog: pytest.LogCaptureFixture) -> None:
    def error_of(kernel: str) -> float:
        raise AssertionError

    assert tried(lambda: None, error_of, "slower") is None
    assert not caplog.records


@pytest.mark.parametrize("off", [0.02, math.inf, math.nan])
def test_a_kernel_that_is_off_is_logged_and_not_used(caplog: pytest.LogCaptureFixture, off: float) -> None:
    assert tried(lambda: "kernel", lambda kernel: off, "slower") is None

    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"slower (an error of {off:.2g})"


@pytest.mark.parametrize("place", ["made", "run"])
def test_a_kernel_that_raises_is_logged_in_one_line_and_not_used(caplog: pytest.LogCaptureFixture, place: str) -> None:
    def fail(*_: object) -> float:
        raise RuntimeError("no\n such layout")

    made = tried(fail, lambda kernel: 0.0, "slower") if place == "made" else tried(lambda: 1.0, fail, "slower")

    assert made is None
    assert [record.getMessage() for record in caplog.records] == ["slower (RuntimeError: no such layout)"]
