"""Keeps malformed messages as dead letters, and tells whoever waits for their results."""

from __future__ import annotations

import hashlib
import logging

from vqa import results
from vqa.errors import InvalidJob
from vqa.jobs.lane import Lane
from vqa.ledger.closing import Closing
from vqa.ledger.ledger import DEAD_LETTER_BYTES
from vqa.routing import lane_of
from workers.consumer.sanitize import MalformedMessage, usable_id

log = logging.getLogger(__name__)


def write_dead_letter(closing: Closing, raw: bytes, queue: str, malformed: MalformedMessage) -> None:
    """Keep a malformed message in the ledger; with `closing` bound, an `intake.WriteDeadLetter`."""
    reason = f"malformed: {malformed.reason}"
    error, ledger, id = InvalidJob(reason), closing.ledger, malformed.id
    lane = lane_of(queue)
    # first: a call that Redis refuses is repeated, and these can be
    for waiting in malformed.waiting:
        _end(closing, waiting, lane, error)
    # if the id is free, close a job under it with an error, so that the message's sender is not left waiting
    accepted = id is not None and ledger.accept(id, lane, raw[:DEAD_LETTER_BYTES], 60) == "accepted"
    if id is None or not accepted or not closing.close(id, error, reason):
        id = f"malformed-{hashlib.sha256(raw).hexdigest()[:12]}"
        ledger.dead_letter_message(id, lane, raw, reason)
    log.error("malformed message on %s kept as dead letter %s: %s", queue, id, malformed.reason)


def _end(closing: Closing, id: str, lane: Lane, error: InvalidJob) -> None:
    """Write the outcome of a task that will never be a job, unless a job has this id."""
    if usable_id(id) is None:
        encoded = results.encode(closing.app.backend, id, error)
        closing.ledger.write_outcome(id, encoded, closing.ttl_s)
    elif closing.ledger.accept(id, lane, b"", 60) == "accepted":
        closing.close(id, error)
