"""Runs the ledger's script: loads it where Redis has lost it, and waits for replicas if asked to."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from vqa.ledger.commands import SCRIPT, Argument, Command
from vqa.redis.error_replies import is_temporary

log = logging.getLogger(__name__)

#: longest time that Redis waits for its replicas; less than what a reply may take
_CONFIRM_S = 1.0

#: a lasting lack of confirmations is logged once in this time
_LOG_EVERY_S = 30.0


class Unconfirmed(ResponseError):
    """Too few replicas have confirmed a write, which the master has done. It passes, like Redis's own NOREPLICAS."""


class Script:
    """A Lua script over a synchronous connection. Methods raise redis.exceptions.RedisError."""

    def __init__(self, redis: Redis, text: str = SCRIPT) -> None:
        self._redis = redis
        self._text = text
        self._sha = redis.register_script(text).sha
        timeout_s = redis.connection_pool.connection_kwargs.get("socket_timeout") or 2 * _CONFIRM_S
        self._confirm_ms = max(1, round(min(_CONFIRM_S, timeout_s / 2) * 1000))
        self._silent_until = 0.0

    def __call__(self, keys: list[str], *arguments: Any) -> Any:
        [reply] = self.run([(keys, list(arguments))])
        return reply

    def run(self, commands: Sequence[Command], replicas: int = 0, must: bool = True) -> list[Any]:
        """Send the commands in one round trip; return the replies in order.

        Then waits until `replicas` replicas have confirmed what was written. If they do not: where they `must`, sends
        the commands again for as long as the connection retries, and raises Unconfirmed; else logs it.
        """
        if not commands:
            return []
        replies: dict[int, Any] = {}

        def attempt() -> None:
            if self._attempt(commands, replies, replicas) < replicas:
                said = f"UNCONFIRMED fewer than {replicas} replicas did within {self._confirm_ms / 1000:g} s"
                self._unconfirmed(Unconfirmed(said), must)

        if (retry := self._redis.get_retry()) is None:
            attempt()
        else:
            retry.call_with_retry(attempt, lambda error: self._redis.connection_pool.disconnect(False))
        return [replies[number] for number in range(len(commands))]

    def _unconfirmed(self, error: Unconfirmed, must: bool) -> None:
        if must:
            raise error
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + _LOG_EVERY_S
            log.warning("jobs were closed, but %s; if Redis fails now, they run again", str(error).partition(" ")[2])

    def _attempt(self, commands: Sequence[Command], replies: dict[int, Any], replicas: int) -> int:
        """Send the commands that have no reply yet, or all if replicas have to confirm them; return how many did.

        A command keeps its first reply: that to a repetition only says that it is done.
        """
        left = [number for number in range(len(commands)) if replicas or number not in replies]
        errors: list[Exception] = []
        load, confirmed = False, 0
        while left:
            got, confirmed = self._send([commands[number] for number in left], load, replicas)
            errors += (each for each in got if isinstance(each, Exception) and not isinstance(each, NoScriptError))
            for number, reply in zip(left, got, strict=True):
                if not isinstance(reply, Exception):
                    replies.setdefault(number, reply)
            # somebody flushed the scripts; EVAL runs and loads it in one go, so that each round brings one further
            left = [number for number, reply in zip(left, got, strict=True) if isinstance(reply, NoScriptError)]
            load = True
        if errors:
            # one that will not pass comes first
            raise min(errors, key=is_temporary)
        return confirmed

    def _send(self, commands: Sequence[Command], load: bool, replicas: int) -> tuple[list[Any], int]:
        # not redis-py's pipelines, which take longer than the script
        sent: list[tuple[Argument, ...]] = [
            ("EVAL", self._text, len(keys), *keys, *arguments)
            if load and number == 0
            else ("EVALSHA", self._sha, len(keys), *keys, *arguments)
            for number, (keys, arguments) in enumerate(commands)
        ]
        if replicas:
            sent.append(("WAIT", replicas, self._confirm_ms))
        replies = self._exchange(sent)
        confirmed = replies.pop() if replicas else 0
        if isinstance(confirmed, NoPermissionError):
            raise confirmed
        # a master that has become a replica cannot wait for its own
        return replies, 0 if isinstance(confirmed, Exception) else confirmed

    def _exchange(self, sent: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send the commands at once; return the replies, errors among them."""
        pool = self._redis.connection_pool
        connection: Any = pool.get_connection()
        try:
            connection.send_packed_command(connection.pack_commands(sent))
            return [_reply(connection) for _ in sent]
        except BaseException:
            # replies may be on their way
            connection.disconnect()
            raise
        finally:
            pool.release(connection)


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error
