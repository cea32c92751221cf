"""The assertions: what was promised, held against what was seen. Each check yields what is wrong, with the job's id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from tests.chaos.catalog import ONE_OF_EACH
from tests.chaos.evidence import Evidence
from tests.chaos.figures import clean_recoveries, unread
from tests.chaos.jobs import KINDS
from tests.chaos.record import History

Complaints = Iterator[tuple[str | None, str]]

#: a job that has lost a worker is given so many attempts
_ATTEMPTS = 3

#: how jobs of each kind may end, beside bad luck (see `_was_unlucky`)
_ALLOWED = {"brief": {"answered", "DeadlineExceeded"}, "poison": {"JobGivenUp"}}


def judge(evidence: Evidence) -> list[tuple[str | None, str]]:
    """Everything that is wrong; nothing where the promises held."""
    return [complaint for check in CHECKS for complaint in check(evidence)]


def _as_told(evidence: Evidence) -> Complaints:
    for complaint in evidence.complaints:
        yield None, complaint


def _is_accounted_for(evidence: Evidence) -> Complaints:
    """Every accepted job has an outcome; a Celery app's message is a job once a worker has read it."""
    for id, history in evidence.histories.items():
        if history.accepted and id not in evidence.endings:
            yield id, "lost: it was accepted and has no outcome"


def _is_read(evidence: Evidence) -> Complaints:
    """A Celery app's message that no worker has read is in kombu's second net, or was being popped at some end.

    A worker pops one at a time, and Redis keeps none that it has given out: so the end of a process, or of its
    connection, costs one at most. What a client submits is in the ledger and is found.
    """
    gone = [id for id in unread(evidence) if id not in evidence.unacked]
    ends = sum(life.status not in (0, -15) for life in evidence.lives)
    ends += len(evidence.disturbances) * evidence.plan.workers + evidence.faults["reset"] * 3
    if len(gone) > ends:
        yield gone[0], f"lost: {len(gone)} messages of Celery apps are gone, at {ends} ends of workers or connections"


def _is_allowed(evidence: Evidence) -> Complaints:
    for id, ending in evidence.endings.items():
        history = evidence.histories[id]
        if ending.name not in allowed(history) and not was_unlucky(evidence, id):
            yield id, f"{history.kind} job ended with {ending.name} ({ending.text[:120]})"


def allowed(history: History) -> set[str]:
    """How this job may end."""
    if history.asked_to_cancel and history.cancelled is not None:
        return {"Cancelled"} if history.cancelled else {"answered"}
    if history.asked_to_cancel:
        return {"Cancelled", "answered"}
    return _ALLOWED.get(history.kind, {"answered"})


def was_unlucky(evidence: Evidence, id: str) -> bool:
    """Given up after its last attempt, in which it ran alone, lost its worker to a fault that was no job's.

    A job that lost a worker runs alone at its last attempt, so no neighbour's poison can be the reason.
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
        if life.meant and life.end is not None and taken - slack_s <= life.end <= ended + slack_s:
            return True
        for each in evidence.disturbances:
            if each.pid == life.pid and each.begin <= ended and each.end >= taken - slack_s:
                return True
    return False


def _is_its_own(evidence: Evidence) -> Complaints:
    for id, ending in evidence.endings.items():
        if ending.name == "answered" and (ending.text != evidence.histories[id].expect or ending.id != id):
            yield id, f"another's answer: {ending.text}, not {evidence.histories[id].expect}"


def _stays(evidence: Evidence) -> Complaints:
    """What was heard first is what is kept, and it was published once."""
    for id, history in evidence.histories.items():
        for _, heard in history.endings:
            if heard != evidence.endings.get(id):
                yield id, f"doubled: it ended with {heard}, and then with {evidence.endings.get(id)}"
        if evidence.published.get(id, 0) > 1:
            yield id, f"doubled: {evidence.published[id]} outcomes were published"


def _runs_once_at_a_time(evidence: Evidence) -> Complaints:
    for overlap in evidence.overlaps:
        if overlap.excuse is None:
            yield overlap.first.id, f"it ran in processes {overlap.first.pid} and {overlap.second.pid} at once"


def _is_given_up_in_time(evidence: Evidence) -> Complaints:
    for id, history in evidence.histories.items():
        most = max((run.attempt for run in evidence.runs.get(id, ())), default=0)
        if history.kind == "poison" and most > _ATTEMPTS:
            yield id, f"poison had {most} attempts"


def _ended_for_a_reason(evidence: Evidence) -> Complaints:
    """A process ends because we end it, or because a job that it ran was made to break it."""
    breaks = {70: {"crash", "poison"}, 71: {"hang"}}
    ran: dict[int, set[str]] = {}
    for id, runs in evidence.runs.items():
        for run in runs:
            # jobs of the dead-letter kind that nobody submitted have no history
            if id in evidence.histories:
                ran.setdefault(run.pid, set()).add(evidence.histories[id].kind)
    for life in evidence.lives:
        # a second SIGTERM may find the interpreter on its way out, when Python has let go of its signals
        expected = {"killed": {-9}, "drained": {0}, "hurried": {0, -15}}.get(life.meant or "", set())
        if life.status in expected:
            continue
        if not breaks.get(life.status or 0, set()) & ran.get(life.pid, set()):
            yield None, f"{life.name} ({life.pid}) ended with {life.status}, meant: {life.meant}; see {life.log}"


def _recovers(evidence: Evidence) -> Complaints:
    for each in clean_recoveries(evidence):
        if each.took_s > evidence.plan.bound_s:
            yield (
                each.id,
                f"its killed worker's lease was over after {each.took_s:.1f} s, not {evidence.plan.bound_s} s",
            )


def _leaves_nothing(evidence: Evidence) -> Complaints:
    for line in evidence.left:
        yield None, line


def _is_a_run(evidence: Evidence) -> Complaints:
    """A run in which nothing happened proves nothing."""
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


CHECKS: list[Callable[[Evidence], Complaints]] = [
    _as_told,
    _is_a_run,
    _is_accounted_for,
    _is_read,
    _is_allowed,
    _is_its_own,
    _stays,
    _runs_once_at_a_time,
    _is_given_up_in_time,
    _ended_for_a_reason,
    _recovers,
    _leaves_nothing,
]
