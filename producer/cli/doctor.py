"""`vqa doctor`: checks settings, Redis, workers and jobs; with --repair it first runs the janitor's repairs once."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, fields

from redis import Redis

from producer.cli.show import columns
from producer.client.dead_letters import DeadLetters
from producer.client.outage import unavailable
from producer.monitor.checks import Finding, findings
from producer.monitor.damage import damaged, wrong_types
from producer.monitor.images import image_store
from producer.monitor.models import model_findings
from producer.monitor.probe import run_probe
from vqa.celery import make_app
from vqa.errors import SettingsError
from vqa.ledger.lease_check import GAP_S, LeaseCheck, count_impossible
from vqa.ledger.ledger import Ledger
from vqa.ledger.models import model_queues
from vqa.ledger.sweep import Sweep, SweepResult
from vqa.redis.connection import REDIS_ERRORS, connect
from vqa.settings import PREFIX, QueueSettings

#: how long to wait for the lock of a janitor that has just ended
_LOCK_S = 7.0
_LOCK_PAUSE_S = 0.2

#: between two checks that Redis answers while workers get time to renew
_PING_S = 0.5

#: descriptions of the counts in SweepResult
_SWEPT = {
    "overdue": "closed, past their deadline",
    "lost": "returned to the queue, their worker vanished",
    "given_up": "given up, their worker vanished",
    "delayed": "published, their delay is over",
    "promoted": "published, their tenant had its turn",
    "lost_messages": "republished, their message was lost",
    "returned": "returned to the model that they name, as no worker of its canary is up",
}


def examine(repair: bool, as_json: bool) -> int:
    """Print the report; return the exit status, 1 if something is wrong."""
    report = list(_report(repair))
    print(json.dumps([asdict(finding) for finding in report], indent=2) if as_json else _text(report))
    return 1 if any(finding.level == "wrong" for finding in report) else 0


def _report(repair: bool) -> Iterator[Finding]:
    try:
        settings = QueueSettings()
    except SettingsError as error:
        yield Finding("settings", "wrong", str(error), "`vqa settings` lists the names")
        return
    names = ", ".join(sorted(name for name in os.environ if name.startswith(PREFIX)))
    yield Finding("settings", "ok", f"set in the environment: {names or 'none, all have their defaults'}")
    try:
        with connect(settings, retry_s=0) as redis:
            redis.ping()
            yield Finding("redis", "ok", settings.address.where)
            if repair:
                yield from _repair(redis, settings)
            dead = DeadLetters(redis, Ledger(redis, settings.limits), make_app(settings), settings.images_keep_s)
            if wrong := list(wrong_types(redis)):
                yield from wrong
                return
            yield from damaged(redis)
            yield from findings(run_probe(redis, settings, dead), settings)
            yield from model_findings(redis, settings)
            yield from image_store(redis, settings)
    except REDIS_ERRORS as error:
        yield Finding("redis", "wrong", str(unavailable(error, settings)))


def _repair(redis: Redis, settings: QueueSettings) -> Iterator[Finding]:
    app = make_app(settings)
    sweep = Sweep(redis, app, settings)
    if not _lock(sweep):
        said = "a janitor is running, and repairs everything every two seconds; nothing was done by hand"
        yield Finding("repair", "ok", said)
        return
    expired = _has_expired_leases(redis, settings.lease_s)
    lease_check_ms = _await_renewals(redis, settings, sweep) if expired else None
    # the lock may have expired meanwhile; two concurrent sweeps are harmless
    done = _describe(sweep.run(lease_check_ms))
    app.close()
    if expired and lease_check_ms is None:
        done += "; expired leases were left alone, because Redis was interrupted: run the command again"
    yield Finding("repair", "ok", done)


def _lock(sweep: Sweep) -> bool:
    until = time.monotonic() + _LOCK_S
    while not sweep.try_lock():
        if time.monotonic() > until:
            return False
        time.sleep(_LOCK_PAUSE_S)
    return True


def _has_expired_leases(redis: Redis, lease_s: float) -> bool:
    seconds, microseconds = redis.time()
    now_ms = seconds * 1000 + microseconds // 1000
    return any(
        redis.zcount(f"vqa:leased:{queue}", "-inf", now_ms) or count_impossible(redis, queue, now_ms, lease_s)
        for queue in model_queues(redis)
    )


def _await_renewals(redis: Redis, settings: QueueSettings, sweep: Sweep) -> int | None:
    """Give workers one lease time to renew. Return the time for `Sweep.run`, or None if Redis was interrupted."""
    print(f"vqa: leases have expired; giving their workers {settings.lease_s:.0f} s to renew them", file=sys.stderr)
    check = LeaseCheck(redis, settings.lease_s)
    # one interruption is waited for
    until = time.monotonic() + 2 * settings.lease_s + GAP_S
    while (time_ms := check.time_ms()) is None and time.monotonic() < until:
        time.sleep(_PING_S)
        sweep.try_lock()
        check.answered()
    return time_ms


def _describe(result: SweepResult) -> str:
    done = [(getattr(result, each.name), _SWEPT[each.name]) for each in fields(result)]
    return "; ".join(f"{number} {what}" for number, what in done if number) or "nothing was due"


def _text(report: list[Finding]) -> str:
    levels = {"ok": "ok", "note": "note", "wrong": "WRONG"}
    rows = [
        (finding.about, levels[finding.level], finding.said + (f" -> {finding.advice}" if finding.advice else ""))
        for finding in report
    ]
    wrong = sum(finding.level == "wrong" for finding in report)
    end = "all is well" if not wrong else "1 thing is wrong" if wrong == 1 else f"{wrong} things are wrong"
    return f"{columns(rows)}\n\n{end}"
