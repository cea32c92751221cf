"""Subscribes to all outcomes, so that a second outcome of a job is seen even if a client reads only the first."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from types import TracebackType
from typing import Self

from redis import Redis
from redis.exceptions import RedisError

from vqa.ledger.commands import outcome_key

_PREFIX = outcome_key("")


class Witness:
    """A context manager; misses outcomes that are published while it is disconnected."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)
        #: published outcomes as bytes, by id
        self.outcomes: dict[str, list[bytes]] = defaultdict(list)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
        while not self._stopping.is_set():
            try:
                if not pubsub.subscribed:
                    pubsub.psubscribe(f"{_PREFIX}*")
                message = pubsub.get_message(timeout=0.2)
            except RedisError:
                pubsub.reset()
                time.sleep(0.1)
                continue
            if message and message["type"] == "pmessage":
                self.outcomes[message["channel"].decode().removeprefix(_PREFIX)].append(message["data"])
        pubsub.close()
