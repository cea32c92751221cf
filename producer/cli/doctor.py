"""`vqa doctor`: examines settings, Redis, workers and jobs; with --repair does once what the janitor does."""

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
from producer.client.outage import redis_location, unavailable
from producer.monitor.checks import Finding, findings
from producer.monitor.probe import read
from vqa.celery import make_app
from vqa.connection import REDIS_ERRORS, connect
from vqa.errors import SettingsError
from vqa.job import LANES
from vqa.ledger.ledger import Ledger
from vqa.ledger.sweep import Sweep, SweepResult
from vqa.settings import PREFIX, QueueSettings

#: for the lock of a janitor that has just ended
_LOCK_S = 7.0
_LOCK_PAUSE_S = 0.2

#: between two signs of life of Redis while workers get their time to renew; with a longer gap they could not
_PULSE_S = 0.5
_GAP_S = 3.0

#: what `SweepResult` counts, for people
_SWEPT = {
    "overdue": "closed, past their deadline",
    "lost": "put back, their worker vanished",
    "given_up": "given up, their last worker vanished",
    "delayed": "published, their delay is over",
    "promoted": "published, it was their turn",
    "lost_messages": "published again, their message was lost",
}


def examine(repair: bool, as_json: bool) -> int:
    """Print the report; the exit status, 1 where something is wrong."""
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
    yield Finding("settings", "ok", f"from the environment: {names or 'none, all at their defaults'}")
    try:
        with connect(settings, retry_s=0) as redis:
            redis.ping()
            yield Finding("redis", "ok", redis_location(settings))
            if repair:
                yield from _repair(redis, settings)
            dead = DeadLetters(redis, Ledger(redis, settings.limits), make_app(settings))
            yield from findings(read(redis, settings, dead), settings)
    except REDIS_ERRORS as error:
        yield Finding("redis", "wrong", str(unavailable(error, settings)))


def _repair(redis: Redis, settings: QueueSettings) -> Iterator[Finding]:
    app = make_app(settings)
    sweep = Sweep(redis, app, settings)
    if not _locked(sweep):
        said = "a janitor is at work, which does all of it every two seconds; nothing was done by hand"
        yield Finding("repair", "ok", said)
        return
    out = _leases_out(redis)
    judges = _may_judge_leases(settings, sweep) if out else None
    # the lock may have run out meanwhile; what two do at once is harmless
    done = _done(sweep.run(judges))
    app.close()
    if out and judges is None:
        done += "; leases that ran out were left: Redis has answered for too short a time, do it again"
    yield Finding("repair", "ok", done)


def _locked(sweep: Sweep) -> bool:
    until = time.monotonic() + _LOCK_S
    while not sweep.try_lock():
        if time.monotonic() > until:
            return False
        time.sleep(_LOCK_PAUSE_S)
    return True


def _leases_out(redis: Redis) -> bool:
    seconds, _ = redis.time()
    return any(redis.zcount(f"vqa:leased:{lane}", "-inf", seconds * 1000) for lane in LANES)


def _may_judge_leases(settings: QueueSettings, sweep: Sweep) -> int | None:
    """Give workers a lease time in which they can renew; Redis's time if it answered all the while."""
    print(f"vqa: leases ran out; their workers have {settings.lease_s:.0f} s to renew them", file=sys.stderr)
    heard = time.monotonic()
    until = heard + settings.lease_s
    while time.monotonic() < until:
        time.sleep(_PULSE_S)
        sweep.try_lock()
        if time.monotonic() - heard > _GAP_S:
            return None
        heard = time.monotonic()
    return sweep.lease_check_time()


def _done(swept: SweepResult) -> str:
    done = [(getattr(swept, each.name), _SWEPT[each.name]) for each in fields(swept)]
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
