"""Each promise that the harness checks, broken once: a check that cannot fail proves nothing."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.catalog import ONE_OF_EACH
from tests.chaos.evidence import Evidence
from tests.chaos.figures import last_line
from tests.chaos.journal import Overlap, Run
from tests.chaos.life import Disturbance, Life
from tests.chaos.plan import Plan
from tests.chaos.record import Ending, History
from tests.chaos.recovery import Recovery
from tests.chaos.report import lines
from tests.chaos.verdict import judge
from vqa.ledger.records import AttemptRecord, Header

KINDS = ("plain", "image", "foreign", "brief", "cancel", "twice", "transient", "poison", "damaged")


DAMAGED = Header("dead", "bulk", 0, 0, 0, 0, "", reason="damaged: it has no header")


def history(kind: str) -> History:
    history = History(kind)
    events: list[dict[str, Any]] = [{"event": "intent", "kind": kind, "expect": f"echo:{kind}"}, {"event": "accepted"}]
    events += [{"event": "cancel"}, {"event": "cancelled", "said": True}] if kind == "cancel" else []
    for event in events:
        history.apply({"id": kind, "at": 1.0, **event})
    return history


def ending(kind: str) -> Ending:
    names = {"cancel": "Cancelled", "poison": "JobGivenUp", "brief": "DeadlineExceeded", "damaged": "JobGivenUp"}
    if kind not in names:
        return Ending("answered", f"echo:{kind}", 1, kind)
    return Ending(names[kind], "damaged: it has no header" if kind == "damaged" else "", 3)


def life(pid: int, status: int, intended: str | None = None) -> Life:
    return Life(f"w{pid}", pid, Path("log"), 0.0, 1.0, 100.0, status, intended)


@pytest.fixture
def evidence() -> Evidence:
    """A small run in which all promises held."""
    runs = {kind: [Run(kind, 1, 1, 5.0, 6.0)] for kind in KINDS}
    runs["poison"] = [Run("poison", 2, 1, 5.0, None)]
    return Evidence(
        plan=Plan(seed=1, jobs=len(KINDS), faults=len(ONE_OF_EACH), minutes=1),
        histories={kind: history(kind) for kind in KINDS},
        endings={kind: ending(kind) for kind in KINDS},
        published={kind: 1 for kind in KINDS},
        runs=runs,
        overlaps=[],
        lives=[life(1, 0, "drained"), life(2, 70), life(3, -9, "killed")],
        disturbances=[],
        recoveries=[Recovery("plain", 50.0, 53.0)],
        dead={"damaged": DAMAGED},
        unacked=set(),
        leftovers=[],
        violations=[],
        faults=Counter(fault.__name__ for fault in ONE_OF_EACH),
    )


def violations_of(evidence: Evidence) -> list[str]:
    violations = judge(evidence)
    # every violation can be reported
    assert bool(list(lines(evidence, violations, Path("folder")))) is bool(violations)
    return [text for _, text in violations]


def test_a_run_in_which_all_promises_held_is_not_complained_of(evidence: Evidence) -> None:
    assert violations_of(evidence) == []
    line = last_line(evidence, [])
    assert line.startswith("chaos: seed 1, 9 jobs, 15 faults (1 broadcast, ")
    assert "lost 0, doubled 0" in line
    assert "p100 3.0 s (1), bound 9 s (beside other troubles not measured)" in line


def test_an_accepted_job_without_an_outcome_is_lost(evidence: Evidence) -> None:
    del evidence.endings["plain"]
    [violation] = violations_of(evidence)
    assert violation.startswith("lost")


def test_a_job_whose_submission_raised_may_have_no_outcome(evidence: Evidence) -> None:
    evidence.histories["plain"].accepted = False
    del evidence.endings["plain"]
    assert violations_of(evidence) == []


def test_a_message_that_became_a_job_must_end(evidence: Evidence) -> None:
    evidence.histories["foreign"] = History("foreign", "foreign", sent=True)
    del evidence.endings["foreign"]
    # two processes have ended abruptly: each may have popped one
    assert violations_of(evidence) == []
    evidence.histories["foreign"].apply({"event": "found", "id": "foreign", "at": 2.0})
    [violation] = violations_of(evidence)
    assert violation.startswith("lost")


def test_more_messages_gone_than_workers_ended_is_wrong(evidence: Evidence) -> None:
    for number in range(3):
        evidence.histories[f"sent{number}"] = History(f"sent{number}", "foreign", sent=True)
    [violation] = violations_of(evidence)
    assert violation.startswith("lost: 3 messages")
    evidence.unacked.add("sent0")
    assert violations_of(evidence) == []


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("plain", "DeadlineExceeded"),
        ("plain", "JobGivenUp"),
        ("plain", "EngineError"),
        ("plain", "UnknownJob"),
        ("brief", "Cancelled"),
        ("cancel", "answered"),
        ("poison", "answered"),
        ("transient", "EngineError"),
    ],
)
def test_an_outcome_of_another_kind_is_wrong(evidence: Evidence, kind: str, name: str) -> None:
    evidence.endings[kind] = replace(evidence.endings[kind], name=name, text=f"echo:{kind}", id=kind)
    assert violations_of(evidence) == [f"{kind} job ended with {name} (echo:{kind})"]


def test_an_answer_to_another_job_is_wrong(evidence: Evidence) -> None:
    evidence.endings["plain"] = Ending("answered", "echo:twice", 1, "plain")
    assert violations_of(evidence) == ["another's answer: echo:twice, not echo:plain"]
    evidence.endings["plain"] = Ending("answered", "echo:plain", 1, "twice")
    assert len(violations_of(evidence)) == 1


def test_an_outcome_that_changed_or_came_twice_is_doubled(evidence: Evidence) -> None:
    evidence.histories["plain"].endings.append((2.0, Ending("answered", "echo:plain", 2, "plain")))
    evidence.published["twice"] = 2
    assert [violation.partition(":")[0] for violation in violations_of(evidence)] == ["doubled", "doubled"]


def test_a_job_in_two_living_workers_at_once_is_wrong(evidence: Evidence) -> None:
    first, second = Run("plain", 1, 1, 5.0, 6.0), Run("plain", 3, 2, 5.5, 6.0)
    evidence.overlaps.append(Overlap(first, second, "its worker was cut off"))
    assert violations_of(evidence) == []
    evidence.overlaps.append(Overlap(first, second, None))
    assert violations_of(evidence) == ["it ran in processes 1 and 3 at once"]


def test_a_job_that_nothing_damaged_is_not_given_up_as_damaged(evidence: Evidence) -> None:
    evidence.endings["plain"] = evidence.endings["damaged"]
    assert "it was given up as damaged, and was not: damaged: it has no header" in violations_of(evidence)


def test_a_damaged_job_that_is_not_kept_is_wrong(evidence: Evidence) -> None:
    del evidence.dead["damaged"]
    assert violations_of(evidence) == ["it was given up as damaged and is no dead letter"]


def test_poison_with_a_fourth_attempt_is_wrong(evidence: Evidence) -> None:
    evidence.runs["poison"].append(Run("poison", 2, 4, 7.0, None))
    assert violations_of(evidence) == ["poison had 4 attempts"]


@pytest.mark.parametrize(
    ("status", "intended"), [(71, None), (1, None), (-9, None), (78, None), (0, None), (71, "drained")]
)
def test_a_process_that_ended_for_no_reason_is_wrong(evidence: Evidence, status: int, intended: str | None) -> None:
    evidence.lives.append(life(4, status, intended))
    [violation] = violations_of(evidence)
    assert f"ended with {status}" in violation


def test_a_slow_recovery_is_wrong_unless_something_else_was_in_its_way(evidence: Evidence) -> None:
    evidence.recoveries.append(Recovery("twice", 50.0, 59.5))
    assert len(violations_of(evidence)) == 1
    evidence.recoveries[-1] = Recovery("twice", 50.0, None)
    assert len(violations_of(evidence)) == 1
    evidence.disturbances.append(Disturbance("without Redis", None, 52.0, 53.0))
    assert violations_of(evidence) == []


def test_an_innocent_may_be_given_up_only_where_faults_of_ours_took_its_last_worker(evidence: Evidence) -> None:
    evidence.endings["plain"] = Ending("JobGivenUp", "worker_lost", 3)
    last = AttemptRecord(3, "w3@host", 90_000, 104_000, "WorkerLost")
    header = Header("dead", "bulk", 0, 0, 3, 3, history=(last,), reason="worker_lost")
    assert len(violations_of(evidence)) == 1
    evidence.dead["plain"] = header
    assert violations_of(evidence) == []
    # it ran alone in a worker that only a job can have ended
    evidence.dead["plain"] = replace(header, history=(replace(last, worker="w2@host"),))
    assert len(violations_of(evidence)) == 1
    evidence.disturbances.append(Disturbance("stopped", 2, 91.0, 95.0))
    assert violations_of(evidence) == []


def test_what_is_left_or_said_is_passed_on(evidence: Evidence) -> None:
    evidence.leftovers.append("vqa:job:x is left in Redis")
    evidence.violations.append("w1 did not end")
    assert violations_of(evidence) == ["w1 did not end", "vqa:job:x is left in Redis"]


def test_a_run_in_which_too_little_happened_proves_nothing(evidence: Evidence) -> None:
    assert len(violations_of(replace(evidence, plan=replace(evidence.plan, jobs=100)))) == 1
    assert len(violations_of(replace(evidence, plan=replace(evidence.plan, faults=len(ONE_OF_EACH) + 1)))) == 1
    evidence.faults.update(hang=-1, kill=1)
    assert violations_of(evidence) == ["no hang took effect"]
    evidence.runs.clear()
    assert any("the journal has 0" in violation for violation in violations_of(evidence))
