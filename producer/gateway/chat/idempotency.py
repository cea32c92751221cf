"""`Idempotency-Key`: a request that is sent again gets the answer of the first one and does not run twice.

The job's id follows from tenant and key, so the ledger refuses to accept it a second time. What the job was is kept as
a hash, to tell a repeated request from another one with the same key.
"""

from __future__ import annotations

import hashlib

from producer.client.outage import redis_errors
from producer.gateway.chat.job_builder import ChatJob
from producer.gateway.context import Context
from producer.gateway.errors import KeyReused
from producer.ids import owner_tag

_RANDOM_DIGITS = 24


def id_of_key(prefix: str, tenant: str | None, key: str) -> str:
    """Return the id of the job that the tenant asked for with this key, in the form of `producer.ids.new_id`."""
    digest = hashlib.sha256(f"{tenant or ''}\n{key}".encode()).hexdigest()
    return f"{prefix}_{owner_tag(tenant)}_{digest[:_RANDOM_DIGITS]}"


async def is_repeated(context: Context, chat: ChatJob) -> bool:
    """Return whether an earlier request asked for the job; remember this one for as long as its outcome is kept.

    Raises KeyReused if the earlier request differs, QueueUnavailable.
    """
    job = chat.job
    kept_s = context.queue_settings.job_timeout_s(job) + context.queue_settings.result_ttl_s
    # what is at a URL may change between two requests
    asked = job.with_images(chat.urls) if chat.urls else job
    document = asked.model_copy(update={"id": ""}).to_json() + (chat.model or "").encode()
    digest = hashlib.sha256(document).hexdigest().encode()
    with redis_errors(context.queue_settings):
        found = await context.redis.set(f"vqa:request:{chat.id}", digest, nx=True, get=True, ex=round(kept_s))
    if found is None:
        return False
    if found != digest:
        raise KeyReused
    # without a state, the first request was refused
    return (await context.client.states([chat.id]))[chat.id].state != "unknown"
