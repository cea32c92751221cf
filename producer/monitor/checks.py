"""Judges what `probe` has read: what is fine, what is worth knowing, what is wrong and what to do. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from producer.client.capacity import MEMORY_SHARE
from producer.monitor.probe import SLACK_S, LaneProbe, Probe
from vqa.jobs.lane import Lane
from vqa.ledger.records import WorkerInfo
from vqa.settings import QueueSettings

_REPAIR = "start workers, or `vqa doctor --repair`"

#: a larger difference between the clocks is reported
_MAX_SKEW_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `advice` says what to do."""

    about: str
    level: Literal["ok", "note", "wrong"]
    said: str
    advice: str = ""


def findings(probe: Probe, settings: QueueSettings) -> Iterator[Finding]:
    yield from _redis(probe, settings)
    yield _clock(probe)
    yield from _workers(probe, settings)
    for lane, state in probe.lanes.items():
        yield from _lane(lane, state, settings)
    yield from _inbox(probe)
    yield from _overdue(probe)
    yield from _dead(probe, settings)
    yield from _leftovers(probe)


def _redis(probe: Probe, settings: QueueSettings) -> Iterator[Finding]:
    if probe.server is None:
        said = "version, memory and persistence are unknown: this Redis user may not run INFO"
        yield Finding("redis", "note", said)
        return
    server = probe.server
    version = str(server["redis_version"])
    old = int(version.partition(".")[0]) < 7
    yield Finding(
        "redis",
        "wrong" if old else "ok",
        f"version {version}, answers in {probe.answer_s * 1000:.1f} ms",
        "upgrade to 7.0 or later" if old else "",
    )
    if server.get("role", "master") != "master":
        yield Finding(
            "redis", "wrong", "this is a replica, which accepts no writes", "point VQA_REDIS_URL at its master"
        )
    yield from _replication(probe.server, settings)
    yield from _memory(probe, settings)
    yield from _persistence(probe)


def _replication(server: Mapping[str, Any], settings: QueueSettings) -> Iterator[Finding]:
    replicas, wanted = int(server.get("connected_slaves", 0)), settings.wait_replicas
    # INFO has this number only where min-replicas-to-write is set
    good = server.get("min_slaves_good_slaves")
    if replicas < wanted:
        said = f"replicas connected: {replicas}, and VQA_WAIT_REPLICAS is {wanted}: every submission fails"
        yield Finding("replication", "wrong", said, "start the replicas, or lower VQA_WAIT_REPLICAS")
    elif good == 0:
        said = "no replica keeps up, and min-replicas-to-write is set: Redis refuses writes (NOREPLICAS)"
        yield Finding("replication", "wrong", said, "start the replicas, or lower min-replicas-to-write")
    elif replicas and good is None and not wanted:
        said = f"replicas connected: {replicas}; nothing waits for them, a failover loses the last second's jobs"
        yield Finding(
            "replication", "note", said, "VQA_WAIT_REPLICAS=1 everywhere, or min-replicas-to-write 1 in Redis"
        )
    elif replicas:
        yield Finding("replication", "ok", f"replicas connected: {replicas}")


def _memory(probe: Probe, settings: QueueSettings) -> Iterator[Finding]:
    assert probe.server is not None
    used, limit = probe.server["used_memory"], probe.server["maxmemory"]
    if not limit:
        yield Finding("memory", "ok", f"{_mib(used)} used, no maxmemory")
    elif used > MEMORY_SHARE * limit:
        said = f"{_mib(used)} used, {used / limit:.0%} of maxmemory: new jobs are refused with QueueFull"
        yield Finding("memory", "wrong", said, "wait until jobs are answered, add workers, or raise maxmemory")
    else:
        yield Finding("memory", "ok", f"{_mib(used)} used, {used / limit:.0%} of maxmemory")
    policy = probe.server.get("maxmemory_policy")
    if policy != "noeviction":
        said = f"maxmemory-policy is {policy}: when memory is short, Redis drops jobs, images and outcomes"
        yield Finding("memory", "wrong", said, "CONFIG SET maxmemory-policy noeviction, and in its configuration")


def _persistence(probe: Probe) -> Iterator[Finding]:
    assert probe.server is not None
    server = probe.server
    if server.get("aof_last_write_status", "ok") != "ok":
        yield Finding("persistence", "wrong", "writing the append-only file failed", "check Redis's disk and its log")
    elif server.get("aof_enabled"):
        synced = f"synced {probe.fsync}" if probe.fsync else "how often it is synced is unknown"
        yield Finding("persistence", "ok", f"append-only file, {synced}")
    else:
        said = "no append-only file: a crash of Redis loses the jobs since its last snapshot"
        yield Finding("persistence", "note", said, "appendonly yes")
    if server.get("rdb_last_bgsave_status", "ok") != "ok":
        said = "the last snapshot failed: Redis may refuse writes (MISCONF)"
        yield Finding("persistence", "wrong", said, "check Redis's disk and its log")


def _clock(probe: Probe) -> Finding:
    differs = abs(probe.ahead_s) > _MAX_SKEW_S
    where = "ahead of" if probe.ahead_s > 0 else "behind"
    said = f"Redis's clock is {abs(probe.ahead_s):.1f} s {where} this machine's"
    return Finding("clock", "note" if differs else "ok", said + ("; deadlines use Redis's clock" if differs else ""))


def _workers(probe: Probe, settings: QueueSettings) -> Iterator[Finding]:
    living = [worker for worker in probe.workers if _seen_s(probe, worker) <= settings.lease_s]
    for worker in living:
        yield Finding("worker", "ok", f"{worker.name} renewed {_seen_s(probe, worker):.1f} s ago")
    for worker in probe.workers:
        if worker not in living:
            silent = f"{worker.name} has not renewed for {_seen_s(probe, worker):.0f} s"
            if worker.seen > probe.now:
                silent = f"{worker.name} has not renewed since Redis's clock was set back"
            said = f"{silent}: it was killed, paused or disconnected"
            yield Finding("worker", "note", said, "its jobs return to the queue automatically")
    if not living:
        yield Finding("worker", "wrong", "no worker is up", "start one with `vqa worker`, or check the workers' logs")


def _seen_s(probe: Probe, worker: WorkerInfo) -> float:
    return abs(probe.now - worker.seen) / 1000


def _lane(lane: Lane, state: LaneProbe, settings: QueueSettings) -> Iterator[Finding]:
    counts = state.counts
    waiting = f"{counts['waiting']} waiting for their tenant's turn, " if counts["waiting"] else ""
    said = waiting + f"{counts['queued']} queued, {counts['leased']} running, {counts['delayed']} delayed"
    if state.oldest_s is not None:
        said += f"; the oldest has been queued for {_span(state.oldest_s)}"
    full = sum(counts.values()) >= settings.queue_most
    if full:
        said += f"; the lane is full ({settings.queue_most}), new jobs are refused with QueueFull"
    advice = "wait, add workers, or raise VQA_QUEUE_MOST" if full else ""
    yield Finding(lane, "wrong" if full else "ok", said, advice)
    if state.leases_overdue:
        said = f"jobs not returned to the queue after their worker vanished: {state.leases_overdue}"
        yield Finding(lane, "wrong", said, _REPAIR)
    elif state.leases_out:
        said = f"leases that have just expired: {state.leases_out}"
        yield Finding(lane, "note", said, "a janitor returns their jobs to the queue within seconds")
    if state.leases_impossible:
        said = f"leases that end later than they can, because Redis's clock was set back: {state.leases_impossible}"
        advice = "check the clock of Redis's host (NTP); a running janitor returns their jobs within half a minute"
        yield Finding(lane, "wrong", said, f"{advice}; or {_REPAIR}")
    if state.delayed_overdue:
        said = f"delayed jobs not published when due: {state.delayed_overdue}"
        yield Finding(lane, "wrong", said, _REPAIR)
    if state.lost_messages:
        said = f"queued jobs not republished after their message was lost: {state.lost_messages}"
        yield Finding(lane, "wrong", said, _REPAIR)


def _inbox(probe: Probe) -> Iterator[Finding]:
    if probe.inbox:
        said = f"entries of other programs that are no jobs yet: {probe.inbox}"
        yield Finding("inbox", "note", said, "a worker accepts hundreds a second, unless a lane is full")


def _overdue(probe: Probe) -> Iterator[Finding]:
    if probe.overdue_jobs:
        said = f"open jobs not closed within {SLACK_S:.0f} s of their deadline: {probe.overdue_jobs}"
        yield Finding("deadlines", "wrong", said, _REPAIR)
    else:
        yield Finding("deadlines", "ok", "no open job is past its deadline")


def _dead(probe: Probe, settings: QueueSettings) -> Iterator[Finding]:
    if not probe.dead:
        yield Finding("dead letters", "ok", "none")
        return
    counted = sum(probe.reasons.values())
    by = ", ".join(f"{number} {reason}" for reason, number in sorted(probe.reasons.items()))
    said = f"{probe.dead}: {by}" if counted >= probe.dead else f"{probe.dead}, of the newest {counted}: {by}"
    if probe.dead >= settings.dead_most:
        said += f"; that is the limit ({settings.dead_most}), each new one deletes the oldest"
        yield Finding("dead letters", "wrong", said, "see `vqa dlq list`; retry or purge some, or raise VQA_DEAD_MOST")
    else:
        yield Finding("dead letters", "note", said, "see `vqa dlq list`")


def _leftovers(probe: Probe) -> Iterator[Finding]:
    if probe.missing or probe.unbalanced:
        number = max(probe.missing, abs(probe.unbalanced))
        said = f"jobs with missing or inconsistent keys: {number}; another program deletes them, or Redis evicts them"
        yield Finding("leftovers", "wrong", said, "find the cause, then submit the jobs again")
    else:
        said = f"{sum(lane.messages for lane in probe.lanes.values())} messages on the lanes"
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
