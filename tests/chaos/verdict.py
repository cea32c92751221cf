"""Checks the evidence against the promises. Each check yields violations, with the job's id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from tests.chaos.catalog import ONE_OF_EACH
from tests.chaos.evidence import Evidence
from tests.chaos.figures import clean_recoveries, unread_messages
from tests.chaos.jobs import KINDS
from tests.chaos.record import History

Violations = Iterator[tuple[str | None, str]]

#: attempts of a job that loses its workers
_ATTEMPTS = 3

#: how jobs of each kind may end, apart from bad luck (see `was_unlucky`)
_ALLOWED = {
    "brief": {"answered", "DeadlineExceeded"},
    "poison": {"JobGivenUp"},
    # an entry that could not be read is a dead letter; a job that had just ended stays answered
    "damaged": {"answered", "JobGivenUp"},
}


def judge(evidence: Evidence) -> list[tuple[str | None, str]]:
    """Return all violations; none if the promises held."""
    return [violation for check in CHECKS for violation in check(evidence)]


def _found_during_the_run(evidence: Evidence) -> Violations:
    for violation in evidence.violations:
        yield None, violation


def _has_outcome(evidence: Evidence) -> Violations:
    """Check that every accepted job has an outcome; a Celery app's message is a job once a worker has read it."""
    for id, history in evidence.histories.items():
        if history.accepted and id not in evidence.endings:
            yield id, "lost: it was accepted and has no outcome"


def _is_read(evidence: Evidence) -> Violations:
    """Check that an unread message of a Celery app is held by kombu, or was being popped when something ended.

    A worker pops one message at a time, and Redis does not keep popped ones, so the end of a process or a connection
    loses at most one. Jobs that a client submits are in the ledger and are found.
    """
    gone = [id for id in unread_messages(evidence) if id not in evidence.unacked]
    ends = sum(life.status not in (0, -15) for life in evidence.lives)
    ends += len(evidence.disturbances) * evidence.plan.workers + evidence.faults["reset"] * 3
    if len(gone) > ends:
        yield gone[0], f"lost: {len(gone)} messages of Celery apps are gone, at {ends} ends of workers or connections"


def _is_allowed(evidence: Evidence) -> Violations:
    for id, ending in evidence.endings.items():
        history = evidence.histories[id]
        if ending.name not in allowed(history) and not was_unlucky(evidence, id):
            yield id, f"{history.kind} job ended with {ending.name} ({ending.text[:120]})"


def allowed(history: History) -> set[str]:
    """Return the outcomes that this job may have."""
    if history.asked_to_cancel and history.cancelled is not None:
        return {"Cancelled"} if history.cancelled else {"answered"}
    if history.asked_to_cancel:
        return {"Cancelled", "answered"}
    return _ALLOWED.get(history.kind, {"answered"})


def was_unlucky(evidence: Evidence, id: str) -> bool:
    """Return whether a job was given up because a fault ended the worker of its last attempt.

    A job that lost a worker runs alone in its last attempt, so no other job's poison can be the cause.
    """
    header, ending = evidence.dead.get(id), evidence.endings[id]
    if ending.name != "JobGivenUp" or header is None or ending.attempts < _ATTEMPTS or not header.history:
        return False
    last = header.history[-1]
    taken, ended = last.taken / 1000 - evidence.clock_s, last.ended / 1000 - evidence.clock_s
    # Redis's clock and ours are read at different moments
    slack_s = 0.1
    for life in evidence.lives:
        if life.name != last.worker.partition("@")[0]:
            continue
        if life.intended and life.end is not None and taken - slack_s <= life.end <= ended + slack_s:
            return True
        for each in evidence.disturbances:
            if each.pid == life.pid and each.begin <= ended and each.end >= taken - slack_s:
                return True
    return False


def _is_kept_where_damaged(evidence: Evidence) -> Violations:
    """Check that only jobs whose entries were damaged were given up for it, and that their bytes are kept."""
    for id, ending in evidence.endings.items():
        if ending.name != "JobGivenUp" or not ending.text.startswith("damaged"):
            continue
        if evidence.histories[id].kind != "damaged":
            yield id, f"it was given up as damaged, and was not: {ending.text[:120]}"
        elif id not in evidence.dead:
            yield id, "it was given up as damaged and is no dead letter"


def _is_own_answer(evidence: Evidence) -> Violations:
    for id, ending in evidence.endings.items():
        if ending.name == "answered" and (ending.text != evidence.histories[id].expect or ending.id != id):
            yield id, f"another's answer: {ending.text}, not {evidence.histories[id].expect}"


def _is_final(evidence: Evidence) -> Violations:
    """Check that the first outcome is the stored one, and that one outcome was published."""
    for id, history in evidence.histories.items():
        for _, collected in history.endings:
            if collected != evidence.endings.get(id):
                yield id, f"doubled: it ended with {collected}, and then with {evidence.endings.get(id)}"
        if evidence.published.get(id, 0) > 1:
            yield id, f"doubled: {evidence.published[id]} outcomes were published"


def _runs_once_at_a_time(evidence: Evidence) -> Violations:
    for overlap in evidence.overlaps:
        if overlap.excuse is None:
            yield overlap.first.id, f"it ran in processes {overlap.first.pid} and {overlap.second.pid} at once"


def _is_given_up_in_time(evidence: Evidence) -> Violations:
    for id, history in evidence.histories.items():
        most = max((run.attempt for run in evidence.runs.get(id, ())), default=0)
        if history.kind == "poison" and most > _ATTEMPTS:
            yield id, f"poison had {most} attempts"


def _processes_ended_as_intended(evidence: Evidence) -> Violations:
    """Check that each process was ended by a fault, or by a job that was made to break it."""
    breaks = {70: {"crash", "poison"}, 71: {"hang"}}
    ran: dict[int, set[str]] = {}
    for id, runs in evidence.runs.items():
        for run in runs:
            # malformed messages that nobody submitted as jobs have no history
            if id in evidence.histories:
                ran.setdefault(run.pid, set()).add(evidence.histories[id].kind)
    for life in evidence.lives:
        # a second SIGTERM may arrive while the interpreter exits, without Python's signal handlers
        expected = {"killed": {-9}, "drained": {0}, "hurried": {0, -15}}.get(life.intended or "", set())
        if life.status in expected:
            continue
        if not breaks.get(life.status or 0, set()) & ran.get(life.pid, set()):
            yield None, f"{life.name} ({life.pid}) ended with {life.status}, intended: {life.intended}; see {life.log}"


def _recovers(evidence: Evidence) -> Violations:
    for each in clean_recoveries(evidence):
        if each.took_s > evidence.plan.bound_s:
            yield (
                each.id,
                f"its killed worker's lease ended after {each.took_s:.1f} s, not {evidence.plan.bound_s} s",
            )


def _leaves_nothing(evidence: Evidence) -> Violations:
    for line in evidence.leftovers:
        yield None, line


def _is_meaningful(evidence: Evidence) -> Violations:
    """Check that enough happened for the run to prove something."""
    plan = evidence.plan
    if len(evidence.histories) < plan.jobs:
        yield None, f"{len(evidence.histories)} jobs were submitted, not {plan.jobs}"
    if evidence.faults.total() < plan.faults:
        yield None, f"{evidence.faults.total()} faults took effect, not {plan.faults}"
    undone = [fault.__name__ for fault in ONE_OF_EACH if not evidence.faults[fault.__name__]]
    if undone and plan.mix == "all" and not plan.only:
        yield None, f"no {', '.join(undone)} took effect"
    kinds = Counter(history.kind for history in evidence.histories.values())
    missing = (KINDS.keys() if plan.mix == "all" else {"tiny"}) - kinds.keys()
    if missing:
        yield None, f"no job was {', '.join(sorted(missing))}"
    if len(evidence.runs) < len(evidence.histories) / 2:
        yield None, f"the journal has {len(evidence.runs)} of {len(evidence.histories)} jobs"


CHECKS: list[Callable[[Evidence], Violations]] = [
    _found_during_the_run,
    _is_meaningful,
    _has_outcome,
    _is_read,
    _is_allowed,
    _is_kept_where_damaged,
    _is_own_answer,
    _is_final,
    _runs_once_at_a_time,
    _is_given_up_in_time,
    _processes_ended_as_intended,
    _recovers,
    _leaves_nothing,
]
