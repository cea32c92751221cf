"""Webhooks in Redis: the jobs and batches that are watched, and when events are to be delivered (`webhooks.lua`)."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Literal, Self, cast

import redis.asyncio
from redis.exceptions import NoScriptError

from vqa.jobs.job import LONGEST_TIMEOUT_S

_SCRIPT = files(__package__).joinpath("webhooks.lua").read_text(encoding="utf-8")
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()

#: before a batch's id: the record of the event that it will be late
LATE_PREFIX = "late_"

WATCHED = "vqa:webhooks:watched"
DUE = "vqa:webhooks:due"

#: seconds that a record is kept at most: longer than any job or batch is open, and the retries after it
_KEEP_S = LONGEST_TIMEOUT_S + 7 * 86_400
#: seconds after the end of a delivery for which the same id is not watched again
_REMEMBER_S = 86_400

#: ms until the first look; a request's job is accepted, or refused, soon after its webhook is
_FIRST_LOOK_MS = 500

#: how a webhook ended
State = Literal["delivered", "gone", "given_up", "dropped"]


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook that was asked for. Times are in ms on Redis's clock."""

    #: of the job or batch
    id: str
    url: str
    #: whsec_...; "" for that of VQA_GATEWAY_WEBHOOK_SECRET
    secret: str = field(repr=False)
    #: of the API key that asked for it
    key_id: str
    #: id of the event, the same in all attempts
    event: str
    created: int
    #: when it was claimed
    now: int
    #: once the job or batch has ended
    type: str = ""
    body: str = field(default="", repr=False)
    attempt: int = 0
    #: whether it is to be told once that the batch will be late
    late: bool = False
    #: W3C traceparent of the request that asked for it
    trace: str | None = None

    @property
    def age_s(self) -> float:
        return max(0.0, (self.now - self.created) / 1000)

    @classmethod
    def parse(cls, id: str, now: int, fields: Mapping[str, str]) -> Self:
        """Read a record. Raises KeyError or ValueError if another program has written to it."""
        return cls(
            id,
            fields["url"],
            fields["secret"],
            fields["key_id"],
            fields["event"],
            int(fields["created"]),
            now,
            fields.get("type", ""),
            fields.get("body", ""),
            int(fields.get("attempt", 0)),
            "late" in fields,
            fields.get("trace"),
        )


class WebhookRecords:
    """The records. Methods raise redis.exceptions.RedisError."""

    def __init__(self, connection: redis.asyncio.Redis) -> None:
        self._redis = connection

    async def watch(
        self, id: str, url: str, secret: str, key_id: str, late: bool = False, trace: str | None = None
    ) -> None:
        """Deliver an event to `url` when the job or batch ends; repeating it has no effect."""
        fields = {"url": url, "secret": secret, "key_id": key_id, "event": new_event()}
        fields |= ({"late": "1"} if late else {}) | ({"trace": trace} if trace else {})
        await self._run("watch", id, _KEEP_S, _FIRST_LOOK_MS, *(word for pair in fields.items() for word in pair))

    async def claim(self, due: str, most: int, lease_s: float) -> list[Webhook]:
        """Take up to `most` ids of the set that are due, so that no other process does for `lease_s`."""
        now, claimed = cast(
            tuple[int, list[tuple[bytes, list[bytes]]]], await self._run("claim", due, most, round(lease_s * 1000))
        )
        found = []
        for id, words in claimed:
            with suppress(KeyError, ValueError):
                texts = [word.decode() for word in words]
                fields = dict(zip(texts[::2], texts[1::2], strict=True))
                found.append(Webhook.parse(id.decode(), now, fields))
                continue
            # it is claimed again and again, until its record expires, unless it is closed
            await self._run("close", id, "dropped", _REMEMBER_S)
        return found

    async def defer(self, due: str, delays_s: Mapping[str, float]) -> None:
        """Make ids of the set due again after so many seconds; one that is not in the set stays out of it."""
        words: Iterator[str | int] = (word for id, s in delays_s.items() for word in (id, round(s * 1000)))
        if delays_s:
            await self._run("defer", due, *words)

    async def ended(self, id: str, type: str, body: str) -> None:
        """Have the event delivered; if that is under way, there is no effect."""
        await self._run("ended", id, type, body)

    async def late(self, id: str, event: str, type: str, body: str) -> None:
        """Have the event that the batch will be late delivered, once, unless its end has been noticed."""
        await self._run("late", id, _KEEP_S, event, type, body)

    async def close(self, id: str, state: State) -> None:
        """Note that nothing more will be delivered, and forget the secret."""
        await self._run("close", id, state, _REMEMBER_S)

    async def disable(self, webhook: Webhook) -> None:
        """Let no earlier webhook of the same key be delivered to this URL."""
        await self._redis.set(_gone_key(webhook), webhook.now, ex=_KEEP_S)

    async def is_disabled(self, webhook: Webhook) -> bool:
        """Return whether the URL was disabled after this webhook was asked for."""
        since = cast(bytes | None, await self._redis.get(_gone_key(webhook)))
        return since is not None and int(since) >= webhook.created

    async def _run(self, *words: str | bytes | int) -> object:
        try:
            return await self._redis.evalsha(_SHA, 0, *words)
        except NoScriptError:
            # EVAL also loads it; SCRIPT LOAD is no right of a producer
            return await self._redis.eval(_SCRIPT, 0, *words)


def new_event() -> str:
    """Return the id of a new event, the same in all attempts to deliver it."""
    return f"evt_{secrets.token_hex(12)}"


def _gone_key(webhook: Webhook) -> str:
    return f"vqa:webhook-gone:{hashlib.sha256(f'{webhook.key_id} {webhook.url}'.encode()).hexdigest()}"
