"""The soak's verdict finds what grows, what is left over and what was lost."""

from dataclasses import replace

import pytest

from tests.soak.samples import ProcessSample, Sample, prefix_of
from tests.soak.tally import Tally, count_doubled
from tests.soak.verdict import judge, left_over, trends

_HOURS = 2.0


def series(mib: float = 0.0, descriptors: float = 0.0, threads: float = 0.0, keys: float = 0.0) -> list[Sample]:
    """Samples of two hours that grow by so much an hour, with noise."""
    return [sample(at, mib, descriptors, threads, keys) for at in range(0, int(_HOURS * 3600), 30)]


def sample(at: int, mib: float, descriptors: float, threads: float, keys: float) -> Sample:
    hours, noise = at / 3600, (at // 30 * 7 % 5) / 5
    process = ProcessSample(
        pid=1,
        rss_mib=100 + noise + mib * hours,
        descriptors=30 + int(3 * noise + descriptors * hours),
        threads=20 + int(threads * hours),
        cpu_s=0.0,
    )
    redis = {"used_memory": int((5 + noise) * 2**20), "connected_clients": 70}
    return Sample(float(at), {"worker": process}, {"vqa:job": int(10 + 5 * noise + keys * hours)}, {}, redis)


def wrong(samples: list[Sample]) -> list[str]:
    return judge(trends(samples, 600), (), {})


def test_a_run_in_which_nothing_grows_is_good() -> None:
    assert wrong(series()) == []


@pytest.mark.parametrize(
    ("growth", "named"),
    [
        ({"mib": 5.0}, "worker: memory"),
        ({"descriptors": 12.0}, "worker: descriptors"),
        ({"threads": 8.0}, "worker: threads"),
        ({"keys": 60.0}, "keys vqa:job"),
    ],
    ids=["memory", "descriptors", "threads", "keys"],
)
def test_what_grows_is_named(growth: dict[str, float], named: str) -> None:
    [line] = wrong(series(**growth))
    assert line.startswith(named)


def test_a_step_during_the_warm_up_is_no_growth() -> None:
    samples = series()
    samples[0] = sample(0, -50.0, 0.0, 0.0, 0.0)
    assert wrong(samples) == []


@pytest.mark.parametrize(("fills_s", "good"), [(3500, True), (7200, False)], ids=["an hour", "longer"])
def test_a_key_that_fills_for_an_hour_is_no_growth(fills_s: int, good: bool) -> None:
    samples = [
        replace(each, keys={"vqa:files": 1}, key_bytes={"vqa:files": int(min(each.at_s, fills_s)) * 20})
        for each in series()
    ]
    assert (wrong(samples) == []) is good


def test_a_restarted_process_is_judged_by_its_longest_life() -> None:
    samples = series()
    for at, each in enumerate(samples[:60]):
        old = each.processes["worker"]
        samples[at].processes["worker"] = ProcessSample(2, 500.0, old.descriptors, old.threads, 0.0)
    assert wrong(samples) == []


def test_a_run_too_short_for_a_trend_is_not_good() -> None:
    assert wrong(series()[:10]) == ["the run was too short for a trend"]


def test_keys_that_were_not_there_before_are_left_over() -> None:
    left = left_over({"vqa:job": 1}, {"vqa:job": 1, "vqa:batches": 1, "vqa:stream": 2, "kept vqa:batch": 9})
    assert left == ["keys vqa:stream: 2, 0 before the load"]


def test_lost_jobs_are_reported() -> None:
    assert judge(trends(series(), 600), (), {"lost": 2, "doubled": 0}) == ["2 jobs lost"]


def test_a_run_that_refuses_many_jobs_is_not_good() -> None:
    assert judge(trends(series(), 600), (), {}, late=0.005) == []
    assert judge(trends(series(), 600), (), {}, late=0.05) == ["5.0% of the jobs were refused or late"]


def test_a_second_outcome_is_doubled_unless_the_job_was_reopened() -> None:
    tally = Tally()
    tally.reopen("again")
    outcomes = {"once": [b"a" * 40, b"a" * 40], "two": [b"a" * 40, b"b" * 40], "again": [b"a" * 40, b"b" * 40]}
    count_doubled(outcomes, tally)
    assert tally.faults == {"doubled": 1}


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        ("vqa:job:abc", "vqa:job"),
        ("vqa:closed:bulk:179", "vqa:closed"),
        ("celery-task-meta-123", "celery-task-meta"),
        ("_kombu.binding.bulk", "_kombu.binding"),
        ("0f3e.reply.celery.pidbox", "pidbox"),
        ("interactive", "interactive"),
    ],
    ids=["job", "closed", "outcome", "binding", "pidbox", "list"],
)
def test_keys_are_counted_by_prefix(key: str, prefix: str) -> None:
    assert prefix_of(key) == prefix
