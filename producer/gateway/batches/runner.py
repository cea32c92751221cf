"""Works on the batches of all gateway processes, a few at a time in each."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from producer.gateway.batches.lease import Lease, LeaseLost, Leases
from producer.gateway.batches.work import BatchWork, Tools
from producer.gateway.tasks import end_tasks
from vqa.errors import VQAError
from vqa.redis.connection import REDIS_ERRORS
from vqa.redis.outage import RedisOutage

log = logging.getLogger(__name__)

#: batches that one process works on at once
_MAX_BATCHES = 4
#: seconds between two looks for a batch that is due
_LOOK_S = 0.5
#: seconds between two looks for files that have expired
_SWEEP_S = 60.0
#: seconds until a batch whose work failed is tried again
_RETRY_S = 5.0


class Runner:
    """Works on batches until it is cancelled."""

    def __init__(self, tools: Tools, leases: Leases) -> None:
        self._tools = tools
        self._leases = leases
        self._outage = RedisOutage(tools.queue.settings)
        self._due = asyncio.Event()
        self._working: set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        """Look for batches at once: there is a new one."""
        self._due.set()

    async def run(self) -> None:
        """Take batches that are due; once cancelled, let other processes take those in progress."""
        sweeping = asyncio.create_task(self._sweep())
        try:
            while True:
                await self._take()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._due.wait(), _LOOK_S)
                self._due.clear()
        finally:
            await end_tasks(sweeping, *self._working)

    async def _take(self) -> None:
        try:
            while len(self._working) < _MAX_BATCHES and (lease := await self._leases.claim()):
                task = asyncio.create_task(self._work(lease))
                self._working.add(task)
                task.add_done_callback(self._ended)
            self._outage.answered()
        except REDIS_ERRORS as error:
            self._outage.failed(error)
        except Exception:
            # a bug must not end the runner, here and below
            log.exception("taking a batch failed unexpectedly; trying again")

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        self._due.set()

    async def _work(self, lease: Lease) -> None:
        try:
            await BatchWork(self._tools, lease).run()
        except LeaseLost:
            log.warning("another process goes on with batch %s: this one was too slow", lease.id)
        except (VQAError, *REDIS_ERRORS) as error:
            log.warning("batch %s is tried again in %.0f s: %s: %s", lease.id, _RETRY_S, type(error).__name__, error)
            await self._release(lease, _RETRY_S)
        except asyncio.CancelledError:
            await self._release(lease, 0)
            raise
        except Exception:
            log.exception("batch %s failed unexpectedly; it is tried again in %.0f s", lease.id, _RETRY_S)
            await self._release(lease, _RETRY_S)

    async def _release(self, lease: Lease, delay_s: float) -> None:
        # otherwise the lease ends by itself
        with suppress(LeaseLost, *REDIS_ERRORS):
            await lease.release(delay_s)

    async def _sweep(self) -> None:
        while True:
            try:
                while await self._tools.files.sweep():
                    pass
            except REDIS_ERRORS as error:
                self._outage.failed(error)
            except VQAError as error:
                log.warning("expired files are not deleted yet: %s", error)
            except Exception:
                log.exception("deleting expired files failed unexpectedly; trying again")
            await asyncio.sleep(_SWEEP_S)
