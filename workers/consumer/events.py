"""Celery's consumer, with events to Flower and a heartbeat for the watchdog ten times a second.

Celery sends its events after every turn of its event loop. Publishing three events takes as long as publishing one,
about a fifth of what a short job costs a worker.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer

from workers.engine.runtime.heartbeat import Heartbeat

#: seconds between two flushes
_FLUSH_S = 0.1

#: attribute of a worker's app: the heartbeat of its event loop, idle while the loop does not run
HEARTBEAT = "vqa_consumer_heartbeat"


class Consumer(CeleryConsumer):  # type: ignore[misc]  # celery has no types
    """Celery uses it because the setting `worker_consumer` names it."""

    loop: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._heartbeat: Heartbeat = getattr(self.app, HEARTBEAT)
        self.loop = partial(self._run_loop, self.loop)

    def _run_loop(self, loop: Any, *args: Any) -> None:
        self._heartbeat.beat("consume")
        try:
            loop(*args)
        finally:
            self._heartbeat.idle()

    def register_with_event_loop(self, hub: Any) -> None:
        """Start the periodic flush; Celery calls this once per connection."""
        super().register_with_event_loop(hub)
        hub.call_repeatedly(_FLUSH_S, self._on_turn)

    def _on_turn(self) -> None:
        self._heartbeat.beat("consume")
        if self.event_dispatcher and self.event_dispatcher._outbound_buffer:
            # An event could not be sent. If the connection is lost, this ends the loop, and Celery reconnects: each
            # further event would wait for a silent Redis until its call times out. Not on the channel's own client: a
            # pop waits for its reply there
            with self.connection.default_channel.conn_or_acquire() as client:
                client.ping()
        self._flush_events()

    def on_send_event_buffered(self) -> None:
        """Do nothing after an event; the next periodic flush sends it."""

    def on_close(self) -> None:
        """Flush when the connection is lost. Events that cannot be sent are kept for the next connection."""
        self._flush_events()
        super().on_close()

    def shutdown(self) -> None:
        self._flush_events()
        super().shutdown()
