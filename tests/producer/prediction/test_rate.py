"""Rates from counts of ten seconds."""

import pytest

from producer.prediction.rate import Closed
from producer.prediction.share import Backlog, jobs_until

#: five seconds into a slice
NOW_S = 1005.0


def closed(*newest: int) -> Closed:
    """Counts of the newest slices; nothing was closed before."""
    return Closed([0] * (31 - len(newest)) + list(newest), NOW_S)


def test_no_rate_without_a_closed_job() -> None:
    assert closed(0, 0).rate_since(NOW_S - 60) is None
    assert closed(0, 0).rate_before(NOW_S - 60) is None
    assert closed(0, 0).first_rate(NOW_S - 60) is None


def test_the_time_before_the_first_answers_does_not_count() -> None:
    # slots were filled 100 s ago; answers come since the last 40
    rate = closed(0, 0, 0, 0, 0, 3, 80, 80, 80, 40).rate_since(NOW_S - 100)
    assert rate is not None
    assert rate.jobs_s == pytest.approx(8.0)
    assert rate.slow <= 8.0 <= (rate.fast or 0)


def test_the_newest_minute_counts_if_it_has_enough_jobs() -> None:
    slow_then_fast = closed(*[20] * 20, *[100] * 8, 50)
    rate = slow_then_fast.rate_since(0)
    assert rate is not None
    assert rate.jobs_s == pytest.approx(10.0)
    # what was slow or fast within five minutes bounds it
    assert rate.slow == pytest.approx(2.0)


def test_jobs_that_may_end_together_widen_the_bounds() -> None:
    counts = closed(64, 64, 64, 64, 32)
    alone, together = counts.rate_since(0), counts.rate_since(0, leased=64)
    assert alone is not None
    assert together is not None
    assert together.jobs_s == alone.jobs_s
    assert together.slow < alone.slow
    assert (together.fast or 0) > (alone.fast or 0)


def test_a_queue_that_stands_still_has_no_latest_end() -> None:
    rate = closed(50, 50, 50, 0, 0, 0, 0, 0, 0, 0, 0).rate_since(0)
    assert rate is not None
    assert rate.slow == 0


def test_a_batch_that_has_just_begun_goes_by_the_jobs_before_it() -> None:
    counts = closed(*[40] * 6, *[80] * 6, 0, 0)
    assert counts.rate_since(NOW_S - 4) is None
    rate = counts.rate_before(NOW_S - 4)
    assert rate is not None
    assert (rate.jobs_s, rate.fast) == (8.0, None)


@pytest.mark.parametrize(
    ("own", "limited_to", "others", "jobs"),
    [
        pytest.param(10, 0.0, [], 10, id="alone"),
        pytest.param(10, 0.0, [Backlog(100), Backlog(4)], 24, id="turns"),
        pytest.param(10, 0.25, [Backlog(100)], 40, id="own-limit"),
        pytest.param(30, 0.0, [Backlog(1000, 0.25)], 40, id="others-limit"),
        pytest.param(30, 0.0, [Backlog(2, 0.25)], 32, id="few-of-others"),
        pytest.param(0, 0.0, [Backlog(100)], 0, id="none"),
    ],
)
def test_tenants_take_turns(own: int, limited_to: float, others: list[Backlog], jobs: float) -> None:
    assert jobs_until(own, limited_to, others) == pytest.approx(jobs, rel=1e-3)


@pytest.mark.parametrize("now", [160, 20], ids=["faster", "slower"])
def test_half_a_minute_after_workers_come_or_go_only_that_counts(now: int) -> None:
    rate = closed(*[80] * 20, now, now, now, now // 2).rate_since(0, leased=16)
    assert rate is not None
    assert rate.jobs_s == pytest.approx(now / 10)


def test_workers_that_stand_still_for_half_a_minute_leave_a_rate_to_divide_by() -> None:
    rate = closed(*[100] * 27, 0, 0, 0, 0).rate_since(0, leased=4)
    assert rate is not None
    assert rate.slow == 0 < rate.jobs_s < 10 == rate.fast
