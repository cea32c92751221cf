"""Calls of the ledger's verbs, by key and arguments, where many are sent in one round trip. No I/O."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.resources import files

from vqa.job import Lane
from vqa.ledger.records import Ending
from vqa.settings import Limits

_PARTS = ("records", "fair_share", "batches", "ledger", "sweep")
SCRIPT = "\n".join(
    [
        *(files("vqa.ledger").joinpath("lua", f"{part}.lua").read_text(encoding="utf-8") for part in _PARTS),
        "return verbs[ARGV[1]](unpack(ARGV, 2))",
    ]
)


#: a reply list nobody reads is gone after this long
REPLY_TTL_MS = 3_600_000

Word = str | bytes | int | float
Command = tuple[list[str], list[Word]]


def entry_key(id: str) -> str:
    """Where the ledger keeps an open job."""
    return f"vqa:job:{id}"


def dead_key(id: str) -> str:
    """Where a dead letter is kept."""
    return f"vqa:dead:{id}"


def outcome_key(id: str) -> str:
    """Where Celery's Redis result backend keeps (and announces) a task's result."""
    return f"celery-task-meta-{id}"


def accept_command(
    id: str,
    lane: Lane,
    payload: bytes,
    timeout_s: float,
    reply: str,
    limits: Limits,
    tenant: str | None = None,
    batch: str | None = None,
    may_wait: bool = True,
) -> Command:
    """`accept`: into the ledger, unless the id is known already.

    Says `accepted` (the caller publishes it), `waiting` (whoever feeds the lane does), `open`, `closed`, `full`, or
    `over` (its batch was cancelled). Where not `may_wait`, its message is there already: it is neither `waiting` nor
    `over`.
    """
    about: list[Word] = [id, outcome_key(id), lane, payload, round(timeout_s * 1000), reply, limits.open_jobs]
    turn: list[Word] = [tenant or "", batch or "", limits.tenant or 0, "" if may_wait else "1"]
    return [entry_key(id)], ["accept", *about, *turn]


def close_command(ending: Ending, limits: Limits) -> Command:
    """`close`: out of the ledger, with its outcome; says whether, and which ids it is now the turn of."""
    ttl_ms = round(max(ending.ttl_s, limits.dead_s if ending.reason else 0) * 1000)
    about: list[Word] = [ending.id, ending.token, outcome_key(ending.id), ending.outcome, ttl_ms, REPLY_TTL_MS]
    dead: list[Word] = [ending.reason, ending.error, round(limits.dead_s * 1000), limits.dead]
    counted: list[Word] = [json.dumps(asdict(ending.tally)), limits.tenant or 0]
    return [entry_key(ending.id)], ["close", *about, *dead, ending.close_if, *counted]
