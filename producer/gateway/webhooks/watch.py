"""Notices the ends of watched jobs and batches, in pages; many processes may do so at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from producer.client.aio import AsyncClient
from producer.gateway.webhooks.events import batch_event, job_event, late_event
from producer.gateway.webhooks.records import WATCHED, Webhook, WebhookRecords, new_event
from producer.prediction import Prediction
from vqa.errors import AnswerTimeout, UnknownBatch, UnknownJob
from vqa.ledger.batch_state import BatchState

log = logging.getLogger(__name__)

BATCH_PREFIX = "batch_"

#: ids that are looked at together, and seconds for which no other process looks at them
_PAGE, _LEASE_S = 200, 15.0

#: seconds between two looks at one id: a share of its age, within bounds
_SHARE, _SHORTEST_S, _LONGEST_S = 0.1, 1.0, 30.0

#: seconds within which the job or batch must exist: a job is accepted right after its webhook, a batch within a day
_JOB_COMES_S, _BATCH_COMES_S = 60.0, 86_400.0

#: ms after a batch's beginning for which only a rate of its own jobs tells that it will be late
_OWN_RATE_MS = 60_000


class Watch:
    """Looks at what is watched. `look` raises QueueUnavailable and redis.exceptions.RedisError."""

    def __init__(self, records: WebhookRecords, client: AsyncClient) -> None:
        self._records = records
        self._client = client

    async def look(self) -> bool:
        """Look at a page of ids, and have the events of those that ended delivered; return whether more are due."""
        claimed = await self._records.claim(WATCHED, _PAGE, _LEASE_S)
        later: dict[str, float] = {}
        await self._look_at_jobs([each for each in claimed if not each.id.startswith(BATCH_PREFIX)], later)
        for webhook in claimed:
            if webhook.id.startswith(BATCH_PREFIX):
                await self._look_at_batch(webhook, later)
        await self._records.defer(WATCHED, later)
        return len(claimed) == _PAGE

    async def _look_at_jobs(self, webhooks: Sequence[Webhook], later: dict[str, float]) -> None:
        by_id = {webhook.id: webhook for webhook in webhooks}
        # also closes jobs whose deadline has passed while no worker is up
        async for id, outcome in self._client.answers(by_id, 0):
            webhook = by_id[id]
            if isinstance(outcome, AnswerTimeout):
                later[id] = _pause_s(webhook)
            elif isinstance(outcome, UnknownJob):
                await self._unknown(webhook, _JOB_COMES_S, later)
            else:
                await self._records.ended(id, *job_event(webhook.event, id, outcome))

    async def _look_at_batch(self, webhook: Webhook, later: dict[str, float]) -> None:
        batch = self._client.batches.retrieve(webhook.id)
        try:
            state = await batch.state()
        except UnknownBatch:
            await self._unknown(webhook, _BATCH_COMES_S, later)
            return
        if state.is_over:
            await self._records.ended(webhook.id, *batch_event(webhook.event, state))
            return
        if webhook.late and (prediction := await batch.prediction(state)) is not None and _is_late(prediction, state):
            event = new_event()
            await self._records.late(webhook.id, event, *late_event(event, webhook.id, prediction))
        later[webhook.id] = _pause_s(webhook)

    async def _unknown(self, webhook: Webhook, comes_s: float, later: dict[str, float]) -> None:
        if webhook.age_s < comes_s:
            later[webhook.id] = _pause_s(webhook)
            return
        # refused after its webhook was accepted, or its outcome was not kept long enough
        log.info("webhook of %s: dropped, as there is no such job or batch", webhook.id)
        await self._records.close(webhook.id, "dropped")


def _is_late(prediction: Prediction, state: BatchState) -> bool:
    # told once: at first only jobs before the batch's tell how fast workers are, who may have had too few of them
    began = state.times.get("in_progress", prediction.made)
    return prediction.is_late and (prediction.earliest is not None or prediction.made - began >= _OWN_RATE_MS)


def _pause_s(webhook: Webhook) -> float:
    return min(max(webhook.age_s * _SHARE, _SHORTEST_S), _LONGEST_S)
