"""The ledger's script, its Redis keys, and the commands that are sent in pipelines. No I/O."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.resources import files

from vqa.jobs.lane import Lane
from vqa.ledger.records import Ending
from vqa.settings import Limits

_PARTS = ("records", "damage", "fair_share", "batches", "ledger")
#: skipped for the verbs of the parts above, as Redis runs the script's whole body at each call
_RARE_PARTS = ("renewal", "damage_verbs", "batch_verbs", "dead_letters", "sweep", "models")


def _text(part: str) -> str:
    return files("vqa.ledger").joinpath("lua", f"{part}.lua").read_text(encoding="utf-8")


SCRIPT = "\n".join(
    [
        *map(_text, _PARTS),
        "if not verbs[ARGV[1]] then",
        *map(_text, _RARE_PARTS),
        "end",
        "return verbs[ARGV[1]](unpack(ARGV, 2))",
    ]
)

#: ms after which an unread reply list expires
REPLY_TTL_MS = 3_600_000

Argument = str | bytes | int | float
#: keys and arguments of the script
Command = tuple[list[str], list[Argument]]


def entry_key(id: str) -> str:
    return f"vqa:job:{id}"


def dead_key(id: str) -> str:
    return f"vqa:dead:{id}"


def outcome_key(id: str) -> str:
    """Return the Redis key and channel of a task's result in Celery's result backend."""
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
    stream: bool = False,
    trace: str | None = None,
    model: str | None = None,
    named: str | None = None,
) -> Command:
    """Return the command that adds a job to the ledger, unless its id is known.

    Redis replies `accepted` (the caller publishes the job), `waiting` (the job is published when it is promoted),
    `open`, `closed`, `full`, or `over` (its batch was cancelled). Without `may_wait`, for a job that has a message
    already, the reply is neither `waiting` nor `over`. With `stream`, workers write its text while they generate it.
    With a `model`, the job waits on that model's own queue. `named` is the model that the job names: another one if a
    canary's share has sent it to `model`.
    """
    job: list[Argument] = [id, outcome_key(id), lane, payload, round(timeout_s * 1000), reply, limits.open_jobs]
    turn: list[Argument] = [tenant or "", batch or "", limits.tenant or 0, "" if may_wait else "1"]
    share_of = named if model and named != model else None
    return [entry_key(id)], ["accept", *job, *turn, "1" if stream else "", trace or "", model or "", share_of or ""]


def close_command(ending: Ending, limits: Limits) -> Command:
    """Return the command that closes a job with its outcome; Redis replies whether it did, and the promoted ids."""
    ttl_ms = round(max(ending.ttl_s, limits.dead_s if ending.reason else 0) * 1000)
    job: list[Argument] = [ending.id, ending.token, outcome_key(ending.id), ending.outcome, ttl_ms, REPLY_TTL_MS]
    dead: list[Argument] = [ending.reason, ending.error, round(limits.dead_s * 1000), limits.dead]
    counted: list[Argument] = [json.dumps(asdict(ending.tally)), limits.tenant or 0]
    return [entry_key(ending.id)], ["close", *job, *dead, ending.close_if, *counted]
