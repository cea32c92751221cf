"""The inbox: plain Redis commands, as a program in another language sends them, against real workers."""

import base64
import hashlib
import json
from typing import Any, cast

from redis import Redis

from tests.e2e.conftest import until
from tests.worker_process import ROOT, StartWorker
from vqa.inbox import INBOX, OUTBOX
from vqa.ledger.commands import outcome_key

SECRET = "the-secret-question"
IMAGE = (ROOT / "examples" / "images" / "shape-07.png").read_bytes()
REPLY = "vqa:reply:test"


def job(id: str, *parts: Any, **fields: Any) -> dict[str, Any]:
    content = [*parts, {"type": "text", "text": SECRET}]
    return {"id": id, "messages": [{"role": "user", "content": content}]} | fields


def add(redis: Redis, job: object, **fields: Any) -> str:
    entry: dict[Any, Any] = {"job": job if isinstance(job, str | bytes) else json.dumps(job), "reply": REPLY} | fields
    return cast(bytes, redis.xadd(INBOX, entry)).decode()


def outcome(redis: Redis, id: str) -> dict[str, Any]:
    """Wait for it as the documentation says."""
    until(lambda: redis.blpop([REPLY], 1) is not None)
    return cast(dict[str, Any], json.loads(cast(bytes, redis.get(outcome_key(id)))))


def refusals(redis: Redis) -> dict[str, dict[str, str]]:
    """By entry."""
    listed = cast(list[tuple[bytes, dict[bytes, bytes]]], redis.xrange(OUTBOX))
    told = [{name.decode(): value.decode() for name, value in fields.items()} for _, fields in listed]
    return {fields["entry"]: fields for fields in told}


def test_entries_written_before_any_worker_started_are_answered(redis: Redis, start_worker: StartWorker) -> None:
    reference = "sha256:" + hashlib.sha256(IMAGE).hexdigest()
    redis.set(f"vqa:image:{reference}", IMAGE, ex=60, nx=True)
    add(redis, job("by-reference", {"type": "image", "image": reference}))
    start_worker()
    answer = outcome(redis, "by-reference")
    assert answer["status"] == "SUCCESS"
    assert answer["result"]["images"][0]["source_width"] == 210
    assert redis.ttl(f"vqa:image:{reference}") > 3600
    until(lambda: redis.xlen(INBOX) == 0)
    url = "data:image/png;base64," + base64.b64encode(IMAGE).decode()
    add(redis, job("by-value", {"type": "image", "image": url}, lane="bulk", tenant="one"))
    assert outcome(redis, "by-value")["status"] == "SUCCESS"
