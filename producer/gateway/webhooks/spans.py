"""A span for each attempt to deliver an event, in the trace of the request that asked for the webhook."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable
from urllib.parse import urlsplit

from producer.gateway.webhooks.records import LATE_PREFIX, Webhook
from producer.gateway.webhooks.sender import Reply
from producer.gateway.webhooks.watch import BATCH_PREFIX
from vqa.tracing import attributes as names
from vqa.tracing.active import active
from vqa.tracing.traceparent import Traceparent

_NAME = "deliver webhook"


async def traced(webhook: Webhook, sent: Awaitable[Reply]) -> Reply:
    """Await the attempt, within a span if this process traces; it is linked to the event's earlier attempts."""
    tracing = active()
    if tracing is None:
        return await sent
    parent = Traceparent.parse(webhook.trace)
    span = tracing.start(
        _NAME,
        "client",
        parent,
        attributes=_about(webhook),
        links=[_attempt(webhook, parent, number) for number in range(1, webhook.attempt)],
        trace_id=None if parent else _own_trace(webhook),
        span_id=_span_id(webhook, webhook.attempt),
    )
    try:
        reply = await sent
    except BaseException as error:
        tracing.end(span, error=names.code_of(error))
        raise
    if reply.status:
        span.set_attribute(names.HTTP_STATUS, reply.status)
    tracing.end(span, error=None if reply.delivered else reply.failure or str(reply.status))
    return reply


def _about(webhook: Webhook) -> dict[str, names.Value]:
    id = webhook.id.removeprefix(LATE_PREFIX)
    about: dict[str, names.Value] = {
        names.HTTP_METHOD: "POST",
        names.WEBHOOK_EVENT: webhook.event,
        names.WEBHOOK_TYPE: webhook.type,
        names.ATTEMPT: webhook.attempt,
        names.BATCH if id.startswith(BATCH_PREFIX) else names.MESSAGING_ID: id,
    }
    # the rest of the URL may be a secret
    if host := urlsplit(webhook.url).hostname:
        about[names.SERVER_ADDRESS] = host
    return about


def _attempt(webhook: Webhook, parent: Traceparent | None, number: int) -> Traceparent:
    """Return the span of an attempt, whichever process made it."""
    trace_id, flags = (parent.trace_id, parent.flags) if parent else (_own_trace(webhook), 1)
    return Traceparent(trace_id, _span_id(webhook, number), flags)


def _own_trace(webhook: Webhook) -> str:
    """Return the trace id of an event whose webhook was asked for without a trace: the same for all attempts."""
    return hashlib.sha256(webhook.event.encode()).hexdigest()[:32]


def _span_id(webhook: Webhook, attempt: int) -> str:
    return hashlib.sha256(f"{webhook.event} {attempt}".encode()).hexdigest()[:16]
