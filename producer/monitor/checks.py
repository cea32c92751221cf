"""What an examination means: what is well, what is worth knowing, what is wrong and what to do. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from producer.client.capacity import MEMORY_SHARE
from producer.monitor.probe import SLACK_S, LaneProbe, Probe
from vqa.job import Lane
from vqa.ledger.records import WorkerInfo
from vqa.settings import QueueSettings

_REPAIR = "start workers, or `vqa doctor --repair`"

#: clocks that differ by more are told
_CLOCKS_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `advice` where there is something to do."""

    about: str
    level: Literal["ok", "note", "wrong"]
    said: str
    advice: str = ""


def findings(probe: Probe, settings: QueueSettings) -> Iterator[Finding]:
    """All of them, from Redis to jobs."""
    yield from _redis(probe, settings)
    yield _clock(probe)
    yield from _workers(probe, settings)
    for lane, state in probe.lanes.items():
        yield from _lane(lane, state, settings)
    yield from _overdue(probe)
    yield from _dead(probe, settings)
    yield from _leftovers(probe)


def _redis(probe: Probe, settings: QueueSettings) -> Iterator[Finding]:
    if probe.server is None:
        said = "its version, memory and persistence could not be read: this user may not ask (INFO)"
        yield Finding("redis", "note", said)
        return
    server = probe.server
    version = str(server["redis_version"])
    old = int(version.partition(".")[0]) < 7
    yield Finding(
        "redis",
        "wrong" if old else "ok",
        f"version {version}, answers in {probe.answer_s * 1000:.1f} ms",
        "7.0 or later is needed" if old else "",
    )
    if server.get("role", "master") != "master":
        yield Finding(
            "redis", "wrong", "this is a replica, nothing can be written", "VQA_REDIS_URL must lead to its master"
        )
    yield from _memory(probe, settings)
    yield from _persistence(probe)


def _memory(probe: Probe, settings: QueueSettings) -> Iterator[Finding]:
    assert probe.server is not None
    used, most = probe.server["used_memory"], probe.server["maxmemory"]
    if not most:
        yield Finding("memory", "ok", f"{_mib(used)} used, no maxmemory")
    elif used > MEMORY_SHARE * most:
        said = f"{_mib(used)} used, {used / most:.0%} of maxmemory: new jobs are refused with QueueFull"
        yield Finding("memory", "wrong", said, "wait until jobs are answered, add workers, or raise maxmemory")
    else:
        yield Finding("memory", "ok", f"{_mib(used)} used, {used / most:.0%} of maxmemory")
    policy = probe.server.get("maxmemory_policy")
    if policy != "noeviction":
        said = f"maxmemory-policy is {policy}: when memory is short, Redis drops jobs, images and outcomes"
        yield Finding("memory", "wrong", said, "CONFIG SET maxmemory-policy noeviction, and in its configuration")


def _persistence(probe: Probe) -> Iterator[Finding]:
    assert probe.server is not None
    server = probe.server
    if server.get("aof_last_write_status", "ok") != "ok":
        yield Finding(
            "persistence", "wrong", "the append-only file could not be written", "look at Redis's disk and its log"
        )
    elif server.get("aof_enabled"):
        synced = f"synced {probe.fsync}" if probe.fsync else "how often it is synced could not be read"
        yield Finding("persistence", "ok", f"append-only file, {synced}")
    else:
        said = "no append-only file: a Redis that crashes loses the jobs since its last snapshot"
        yield Finding("persistence", "note", said, "appendonly yes")
    if server.get("rdb_last_bgsave_status", "ok") != "ok":
        said = "the last snapshot failed: Redis may refuse writes (MISCONF)"
        yield Finding("persistence", "wrong", said, "look at Redis's disk and its log")


def _clock(probe: Probe) -> Finding:
    differs = abs(probe.ahead_s) > _CLOCKS_S
    where = "ahead of" if probe.ahead_s > 0 else "behind"
    said = f"Redis's is {abs(probe.ahead_s):.1f} s {where} this machine's"
    return Finding("clock", "note" if differs else "ok", said + ("; jobs go by Redis's" if differs else ""))


def _workers(probe: Probe, settings: QueueSettings) -> Iterator[Finding]:
    living = [worker for worker in probe.workers if _seen_s(probe, worker) <= settings.lease_s]
    for worker in living:
        yield Finding("worker", "ok", f"{worker.name} renewed {_seen_s(probe, worker):.1f} s ago")
    for worker in probe.workers:
        if worker not in living:
            said = (
                f"{worker.name} has not renewed for {_seen_s(probe, worker):.0f} s: it was killed, stopped or cut off"
            )
            yield Finding("worker", "note", said, "its jobs go back to the queue by themselves")
    if not living:
        yield Finding("worker", "wrong", "no worker is up", "start some: vqa worker; look at their logs")


def _seen_s(probe: Probe, worker: WorkerInfo) -> float:
    return max(0.0, (probe.now - worker.seen) / 1000)


def _lane(lane: Lane, state: LaneProbe, settings: QueueSettings) -> Iterator[Finding]:
    counts = state.counts
    waiting = f"{counts['waiting']} waiting for their turn, " if counts["waiting"] else ""
    said = waiting + f"{counts['queued']} queued, {counts['leased']} running, {counts['delayed']} delayed"
    if state.oldest_s is not None:
        said += f"; the oldest queued for {_span(state.oldest_s)}"
    full = sum(counts.values()) >= settings.queue_most
    if full:
        said += f"; that is as many as may be open ({settings.queue_most}): new jobs are refused with QueueFull"
    advice = "wait, add workers, or raise VQA_QUEUE_MOST" if full else ""
    yield Finding(lane, "wrong" if full else "ok", said, advice)
    if state.leases_overdue:
        said = f"jobs whose worker vanished, taken back by nobody: {state.leases_overdue}"
        yield Finding(lane, "wrong", said, _REPAIR)
    elif state.leases_out:
        said = f"leases that ran out just now: {state.leases_out}"
        yield Finding(lane, "note", said, "a janitor puts them back on the queue within seconds")
    if state.delayed_overdue:
        said = f"delayed jobs that are due, published by nobody: {state.delayed_overdue}"
        yield Finding(lane, "wrong", said, _REPAIR)
    if state.lost_messages:
        said = f"queued jobs whose message was lost, published again by nobody: {state.lost_messages}"
        yield Finding(lane, "wrong", said, _REPAIR)


def _overdue(probe: Probe) -> Iterator[Finding]:
    if probe.overdue_jobs:
        said = f"open jobs over {SLACK_S:.0f} s past their deadline, closed by nobody: {probe.overdue_jobs}"
        yield Finding("deadlines", "wrong", said, _REPAIR)
    else:
        yield Finding("deadlines", "ok", "no open job is past its own")


def _dead(probe: Probe, settings: QueueSettings) -> Iterator[Finding]:
    if not probe.dead:
        yield Finding("dead letters", "ok", "none")
        return
    counted = sum(probe.reasons.values())
    by = ", ".join(f"{number} {reason}" for reason, number in sorted(probe.reasons.items()))
    said = f"{probe.dead}: {by}" if counted >= probe.dead else f"{probe.dead}, of the newest {counted}: {by}"
    if probe.dead >= settings.dead_most:
        said += f"; no more are kept ({settings.dead_most}), each new one drops the oldest"
        yield Finding("dead letters", "wrong", said, "vqa dlq list; then retry or purge, or raise VQA_DEAD_MOST")
    else:
        yield Finding("dead letters", "note", said, "vqa dlq list")


def _leftovers(probe: Probe) -> Iterator[Finding]:
    if probe.missing or probe.unbalanced:
        number = max(probe.missing, abs(probe.unbalanced))
        said = f"jobs known by id alone or in part: {number}; something else deletes keys of vqa, or Redis evicts them"
        yield Finding("leftovers", "wrong", said, "find out what; submit those jobs again")
    else:
        said = f"{sum(lane.messages for lane in probe.lanes.values())} wake-ups on the lanes"
        if probe.foreign:
            said += f", {probe.foreign} messages of other apps on Celery's default queue"
        yield Finding("leftovers", "ok", said)


def _span(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
