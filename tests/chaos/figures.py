"""Statistics of a run, and its last line of output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.chaos.evidence import Evidence
from tests.chaos.recovery import Recovery

#: a worker judges leases after it has run for the lease time and a few of its janitor's rounds
_JUDGES_AFTER_S = 4.0


def clean_recoveries(evidence: Evidence) -> list[Recovery]:
    """Return the recoveries during which another worker had run for long enough and no fault hit it or Redis."""
    return [each for each in evidence.recoveries if _is_clean(each, evidence)]


def _is_clean(recovery: Recovery, evidence: Evidence) -> bool:
    begin = recovery.killed - evidence.plan.lease_s
    end = recovery.killed + min(recovery.took_s, evidence.plan.bound_s)
    troubled = {each.pid for each in evidence.disturbances if each.begin <= end and each.end >= begin}
    return None not in troubled and any(
        life.ready is not None
        and life.ready <= recovery.killed - _JUDGES_AFTER_S
        and (life.end is None or life.end > end)
        and life.pid not in troubled
        for life in evidence.lives
    )


def unread_messages(evidence: Evidence) -> list[str]:
    """Return the ids of messages from other Celery apps that no worker turned into a job."""
    return [
        id
        for id, history in evidence.histories.items()
        if history.sent and not history.accepted and id not in evidence.endings
    ]


def percentile(numbers: Sequence[float], part: float) -> float:
    """Return the smallest number that is not exceeded by `part` of all; NaN for none."""
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


def spread(numbers: Iterable[float]) -> str:
    """Format the median and the maximum, in seconds."""
    numbers = list(numbers)
    if not numbers:
        return "not measured"
    return f"p50 {percentile(numbers, 0.5):.1f} s, p100 {percentile(numbers, 1):.1f} s ({len(numbers)})"


def last_line(evidence: Evidence, violations: Sequence[tuple[str | None, str]]) -> str:
    """Sum up a run in one line."""
    texts = [text for _, text in violations]
    lost = sum(text.startswith("lost") for text in texts)
    doubled = sum(text.startswith("doubled") for text in texts)
    twice = sum(overlap.excuse is None for overlap in evidence.overlaps)
    faults = ", ".join(f"{count} {name}" for name, count in sorted(evidence.faults.items()))
    clean, every = clean_recoveries(evidence), evidence.recoveries
    recovery = spread(each.took_s for each in clean)
    return (
        f"chaos: seed {evidence.plan.seed}, {len(evidence.histories)} jobs, "
        f"{evidence.faults.total()} faults ({faults}), "
        f"{_ends(evidence)}, lost {lost}, doubled {doubled}, at once in two living workers {twice}, "
        f"kill -9 to back in the queue {recovery}, bound {evidence.plan.bound_s:.0f} s "
        f"(beside other troubles {spread(each.took_s for each in every if each not in clean)}), "
        f"{_endings(evidence)}, {evidence.seconds:.0f} s"
    )


def _ends(evidence: Evidence) -> str:
    statuses = [life.status for life in evidence.lives]
    names = {-9: "killed", 70: "crashed", 71: "hung", 0: "drained"}
    ends = ", ".join(f"{statuses.count(status)} {name}" for status, name in names.items())
    return f"{len(statuses)} worker processes ({ends})"


def _endings(evidence: Evidence) -> str:
    names = [ending.name for ending in evidence.endings.values()]
    unread = unread_messages(evidence)
    waiting = [id for id in unread if id in evidence.unacked]
    foreign = sum(history.sent for history in evidence.histories.values())
    unlucky = sum(
        ending.name == "JobGivenUp" and evidence.histories[id].kind not in ("poison", "damaged")
        for id, ending in evidence.endings.items()
    )
    excused = sum(overlap.excuse is not None for overlap in evidence.overlaps)
    damaged = sum(
        ending.name == "JobGivenUp" and ending.text.startswith("damaged") for ending in evidence.endings.values()
    )
    set_aside = sum((header.reason or "").startswith("malformed") for header in evidence.dead.values())
    return (
        f"answered {names.count('answered')}, late {names.count('DeadlineExceeded')}, "
        f"cancelled {names.count('Cancelled')}, "
        f"given up {names.count('JobGivenUp')} ({damaged} damaged, {unlucky} neither damaged nor poison), "
        f"foreign {foreign} ({len(waiting)} wait for kombu's hour, {len(unread) - len(waiting)} popped at an end), "
        f"malformed set aside {set_aside}, "
        f"run again while cut off {excused}"
    )
