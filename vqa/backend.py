"""Celery's Redis result backend, in which `revoke` leaves no result: outcomes are the ledger's to write.

Celery's own would write REVOKED for a job that is still open, or was never submitted and then could not be.
"""

from __future__ import annotations

from typing import Any

from celery import states
from celery.backends.redis import RedisBackend, SentinelBackend


class _Outcomes:
    """Encodes, decodes and waits as its sibling does."""

    def _store_result(self, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any) -> Any:
        if state == states.REVOKED:
            return result
        return super()._store_result(task_id, result, state, *args, **kwargs)  # type: ignore[misc]


class OutcomeBackend(_Outcomes, RedisBackend):  # type: ignore[misc]  # celery has no types
    """For one Redis."""


class SentinelOutcomeBackend(_Outcomes, SentinelBackend):  # type: ignore[misc]  # celery has no types
    """For the master that Sentinels know."""
