"""Celery's consumer, which tells Flower what happened ten times a second and not at each of its loop's turns.

To publish three events takes as long as one: a fifth of what a short job costs a worker.
"""

from __future__ import annotations

from typing import Any

from celery.worker.consumer import Consumer as Plain

#: what is shown is so old at most
_FLUSH_S = 0.1


class Consumer(Plain):  # type: ignore[misc]  # celery has no types
    """Named in the setting `worker_consumer`."""

    def register_with_event_loop(self, hub: Any) -> None:
        """Called once a connection."""
        super().register_with_event_loop(hub)
        hub.call_repeatedly(_FLUSH_S, self._flush_events)

    def on_send_event_buffered(self) -> None:
        """Called after each event; the next flush takes it along."""

    def on_close(self) -> None:
        """The connection is lost: what cannot be told on it is told on the next one."""
        self._flush_events()
        super().on_close()

    def shutdown(self) -> None:
        """The last jobs have ended: tell that, too."""
        self._flush_events()
        super().shutdown()
