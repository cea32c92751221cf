# mypy: disallow-untyped-calls=False
"""kombu's Redis transport for workers: its channels pop through an Intake, and its connections are soon made again."""

from __future__ import annotations

from functools import cache
from typing import Any

import kombu
from celery import Celery
from celery.app.amqp import AMQP
from kombu.transport import redis as plain

from workers.consumer.channel import Channel
from workers.consumer.intake import Intake, WriteDeadLetter
from workers.settings import MESSAGE_MAX_BYTES

#: seconds between tries to connect: the first pause, what each further one adds, and the longest
_RECONNECT = {"interval_start": 1, "interval_step": 1, "interval_max": 5}


class Connection(kombu.Connection):
    """A worker process's connection to the broker."""

    intake: Intake

    def get_transport_cls(self) -> Any:
        return _with_intake(super().get_transport_cls(), self.intake)

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Try to connect until it succeeds, at most 5 s apart; kombu's pauses grow to half a minute."""
        return super().ensure_connection(*args, **_RECONNECT | kwargs)

    def ensure(self, *args: Any, **options: Any) -> Any:
        """Try once in place of for ever: Celery's event loop publishes a heartbeat, and must not stand in it.

        The loop then notices the lost connection by itself, and the event is kept for the next one.
        """
        return super().ensure(*args, **options | {"max_retries": options.get("max_retries") or 0})


@cache
def _with_intake(transport: type[plain.Transport], intake: Intake) -> type[plain.Transport]:
    options = transport.Channel.from_transport_options
    channel = type("Channel", (Channel, transport.Channel), {"from_transport_options": options, "intake": intake})
    return type("Transport", (transport,), {"Channel": channel})


def install_intake(app: Celery, write_dead_letter: WriteDeadLetter, max_bytes: int = MESSAGE_MAX_BYTES) -> Intake:
    """Let this app's connections pop through a new Intake. Call it before the first connection is made."""
    intake = Intake(write_dead_letter, max_bytes)
    # not through a setting: Flower shows the settings as JSON
    connection = type("Connection", (Connection,), {"intake": intake})
    app.amqp_cls = type("WorkerAMQP", (AMQP,), {"Connection": connection})
    return intake
