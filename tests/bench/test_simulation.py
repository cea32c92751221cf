"""The simulation of the queue keeps what a queue keeps, and agrees with formulas, the ledger and measured figures."""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import fmean

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from redis import Redis

from bench.simulation import erlang, workloads
from bench.simulation.card import H200, Card
from bench.simulation.jobs import Work, batch, percentile, poisson
from bench.simulation.queue import Queue
from bench.simulation.slots import Slots
from bench.simulation.system import System
from bench.simulation.worker import MakeEngine, Setup
from bench.simulation.workloads import Kind
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import Lease

#: mean seconds of a job where times are exponential
SERVICE_S = 0.5

TIMES = st.floats(0, 20, allow_nan=False)
WORKS = st.lists(
    st.builds(
        Work,
        arrives=TIMES,
        lane=st.sampled_from(["interactive", "bulk"]),
        tenant=st.sampled_from(["", "a", "b"]),
        service_s=st.floats(0, 3, allow_nan=False),
        prompt_tokens=st.integers(1, 5000),
        answer_tokens=st.integers(1, 100),
    ),
    max_size=150,
)


def most_at_once(works: Sequence[Work]) -> int:
    """Return how many were in slots at the same time; a slot that is freed may be taken at once."""
    changes = sorted(
        [(work.began, 1) for work in works if work.began != work.ended]
        + [(work.ended, -1) for work in works if work.began != work.ended],
        key=lambda change: (change[0] or 0.0, change[1]),
    )
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


@pytest.mark.parametrize("engine", [Slots, Card], ids=["slots", "card"])
@settings(max_examples=40, deadline=None)
@given(works=WORKS, workers=st.integers(1, 4), slots=st.integers(1, 6))
def test_each_job_begins_and_ends_once_and_slots_are_never_overfull(
    engine: MakeEngine, works: list[Work], workers: int, slots: int
) -> None:
    works.sort(key=lambda work: work.arrives)
    system = System(Setup(workers, slots, engine, hop_s=0.002, pop_s=0.003))

    ended = system.run(works)

    assert sorted(map(id, ended)) == sorted(map(id, works))
    assert not len(system.queue)
    for work in works:
        assert work.began is not None
        assert work.ended is not None
        assert work.arrives <= work.began <= work.ended
    assert most_at_once(works) <= workers * slots
    if engine is Slots:
        assert all(work.ended == pytest.approx((work.began or 0) + work.service_s) for work in works)


@settings(max_examples=30, deadline=None)
@given(works=WORKS)
def test_one_worker_serves_a_lane_in_order_and_is_not_idle_while_interactive_jobs_wait(works: list[Work]) -> None:
    works = [work for work in sorted(works, key=lambda work: work.arrives) if work.lane == "interactive"]

    System(Setup(1, 3, Slots)).run(works)

    began = [work.began or 0.0 for work in works]
    assert began == sorted(began)
    for work in works:
        busy = [other for other in works if (other.began or 0) <= work.arrives < (other.ended or 0)]
        assert work.waited_s == pytest.approx(0) or len(busy) >= 3 or any(b < work.began for b in began)


def waits_of_erlangs_queue(servers: int, utilisation: float, seed: int, jobs: int) -> list[float]:
    draw, rate = random.Random(seed), utilisation * servers / SERVICE_S
    arrivals = poisson(
        rate, jobs / rate, lambda at: Work(at, service_s=draw.expovariate(1 / SERVICE_S)), random.Random(seed + 1)
    )
    return [work.waited_s for work in System(Setup(1, servers, Slots, reserved=0)).run(arrivals)]


# not shrunk, as every example takes a while
@settings(max_examples=6, deadline=None, derandomize=True, phases=[Phase.generate])
@given(servers=st.integers(1, 8), utilisation=st.floats(0.4, 0.7), seed=st.integers(0, 99))
def test_waits_agree_with_erlangs_formula(servers: int, utilisation: float, seed: int) -> None:
    waits = waits_of_erlangs_queue(servers, utilisation, seed, jobs=3000)

    # waits depend on each other, so that the mean of 3,000 is uncertain
    expected_s = erlang.mean_wait_s(servers, utilisation * servers, SERVICE_S)
    assert fmean(waits) == pytest.approx(expected_s, rel=0.4, abs=0.02)


def test_many_waits_agree_closely_with_erlangs_formula() -> None:
    servers, utilisation = 4, 0.7

    waits = waits_of_erlangs_queue(servers, utilisation, seed=1, jobs=20_000)

    load = servers * utilisation
    assert fmean(waits) == pytest.approx(erlang.mean_wait_s(servers, load, SERVICE_S), rel=0.1)
    waited = sum(wait > 1e-9 for wait in waits) / len(waits)
    assert waited == pytest.approx(erlang.must_wait(servers, load), rel=0.1)
    assert percentile(waits, 95) == pytest.approx(erlang.wait_s(servers, load, SERVICE_S, 95), rel=0.1)


def test_a_queue_that_gets_more_than_it_serves_has_no_mean_wait() -> None:
    assert erlang.mean_wait_s(2, 2.0, 1.0) == float("inf")
    assert erlang.must_wait(1, 0.5) == pytest.approx(0.5)


def test_bulk_jobs_get_their_turns_in_the_order_of_the_real_ledger(redis: Redis) -> None:
    # of jobs accepted in one millisecond, Redis sorts the ids
    draw, ledger = random.Random(4), Ledger(redis)
    tenants = [draw.choice("aaab") for _ in range(300)]
    listed = [
        f"{number:03}"
        for number, tenant in enumerate(tenants)
        if ledger.accept(f"{number:03}", "bulk", b"{}", 60, tenant=tenant, may_wait=True) == "accepted"
    ]
    taken = []
    while listed:
        taken.append(listed.pop(0))
        lease = ledger.take(taken[-1], "w", f"token-{taken[-1]}", 60)
        assert isinstance(lease, Lease)
        listed += lease.promoted

    queue = Queue(slots=0)
    for number, tenant in enumerate(tenants):
        queue.accept(Work(float(number), "bulk", tenant))

    assert [f"{queue.pop('bulk').arrives:03.0f}" for _ in tenants] == taken


def test_interactive_jobs_pass_bulk_that_waits() -> None:
    works = [*batch(0.0, 100, lambda at: Work(at, "bulk", service_s=1.0)), Work(1.5, service_s=1.0)]

    System(Setup(1, 4, Slots)).run(works)

    assert works[-1].waited_s <= 0.5


def test_a_job_alone_takes_its_passes() -> None:
    [work] = System(Setup(1, 16, Card)).run([Work(0.0, prompt_tokens=4000, answer_tokens=11)])

    assert work.latency_s == pytest.approx(4000 * H200.token_s + 10 * H200.step_s(1))


@pytest.mark.parametrize(
    ("kind", "jobs", "measured"),
    [(workloads.w1, 512, 41.4), (workloads.w2, 256, 32.6), (workloads.w1, 1, 1 / 0.205)],
    ids=["W1 at once", "W2 at once", "W1 alone"],
)
def test_a_card_answers_as_fast_as_the_measured_one(kind: Kind, jobs: int, measured: float) -> None:
    works = System(Setup(1, 256, Card)).run(batch(0.0, jobs, kind(random.Random(2), "bulk")))

    assert jobs / max(work.ended or 0.0 for work in works) == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize(("part", "expected"), [(50, 2.0), (95, 4.0), (1, 1.0)], ids=["50", "95", "1"])
def test_a_percentile_is_one_of_the_values(part: float, expected: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], part) == expected
