"""Plain Redis commands to the inbox, as a program in another language sends them."""

import json
from typing import Any, cast

from redis import Redis

from tests.e2e.conftest import until
from vqa.inbox import INBOX
from vqa.ledger.commands import outcome_key

SECRET = "the-secret-question"
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
