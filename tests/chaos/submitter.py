"""Submits jobs and hears how they end, and writes down both: what a careful service would do, through a real client."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from celery import Celery
from kombu.exceptions import KombuError

from producer import Client
from tests.chaos.jobs import Asked
from tests.chaos.record import Ending, History, Record
from vqa.celery import TASK
from vqa.errors import AnswerTimeout, QueueUnavailable, VQAError
from vqa.settings import QueueSettings

#: jobs that are waited for in one call
_MOST = 2000


class Submitter:
    """One client and its record; threads may share one, but one thread collects."""

    def __init__(self, settings: QueueSettings, record: Record, before: Iterable[History] = ()) -> None:
        self._client = Client(settings)
        self._record = record
        # another service's app: it knows the broker, the task's name and the job's JSON
        self._app = Celery("other", broker=settings.redis_url, set_as_current=False)
        limits = {"socket_timeout": settings.redis_timeout_s, "socket_connect_timeout": settings.redis_timeout_s}
        self._app.conf.broker_transport_options = limits
        self._lock = threading.Lock()
        open_before = [history for history in before if not history.endings]
        #: accepted, and not ended as far as we know
        self._pending = {history.id for history in open_before if history.accepted}
        #: may be accepted: the call raised, or a message is on its way
        self._uncertain = {history.id for history in open_before} - self._pending

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()
        self._app.close()

    @property
    def waiting(self) -> int:
        """Jobs that are known to be open."""
        return len(self._pending)

    def is_open(self, id: str) -> bool:
        """Whether this job is known to be open."""
        return id in self._pending

    @property
    def uncertain(self) -> int:
        """Jobs that may be open one day."""
        return len(self._uncertain)

    def submit(self, asked: Sequence[Asked]) -> bool:
        """Through the client; False where it raised."""
        for each in asked:
            self._record.add("intent", each.job.id, kind=each.kind, expect=each.expect)
        ids = [each.job.id for each in asked]
        try:
            if len(asked) == 1:
                self._client.submit(asked[0].job)
            else:
                self._client.submit_many(each.job for each in asked)
        except VQAError as error:
            self._note(ids, "raised", error)
            with self._lock:
                self._uncertain.update(id for id in ids if id not in self._pending)
            return False
        self._note(ids, "accepted")
        with self._lock:
            self._pending.update(ids)
            self._uncertain.difference_update(ids)
        return True

    def send(self, asked: Asked) -> None:
        """As another Celery app does: the job in the message's body, the task's id for its id."""
        id, lane = asked.job.id, asked.job.lane
        self._record.add("intent", id, kind=asked.kind, expect=asked.expect)
        with self._lock:
            self._uncertain.add(id)
        try:
            self._app.send_task(TASK, [json.loads(asked.job.to_json())], task_id=id, queue=lane)
        except (OSError, KombuError) as error:
            self._note([id], "raised", error)
        else:
            self._record.add("sent", id)

    def cancel(self, id: str) -> None:
        """Ask for its end."""
        self._record.add("cancel", id)
        try:
            self._record.add("cancelled", id, said=self._client.cancel(id))
        except QueueUnavailable as error:
            self._note([id], "raised", error)

    def collect(self, for_s: float) -> None:
        """Hear for so long which jobs ended; short of it, where Redis is away."""
        until = time.monotonic() + for_s
        try:
            self._look_at_uncertain()
            with self._lock:
                ids = list(self._pending)[:_MOST]
            for id, outcome in self._client.answers(ids, timeout_s=for_s) if ids else ():
                if not isinstance(outcome, AnswerTimeout):
                    self._record.add("ended", id, ending=asdict(Ending.of(outcome)))
                    with self._lock:
                        self._pending.discard(id)
        except QueueUnavailable:
            pass
        time.sleep(max(0.0, min(for_s, until - time.monotonic())))

    def _look_at_uncertain(self) -> None:
        with self._lock:
            ids = list(self._uncertain)[:_MOST]
        found = [id for id, state in self._client.states(ids).items() if state.state != "unknown"] if ids else []
        with self._lock:
            # the id of a job that ended meanwhile is looked up as any other's
            self._uncertain.difference_update(found)
            self._pending.update(found)
        for id in found:
            self._record.add("found", id)

    def _note(self, ids: Sequence[str], event: str, error: BaseException | None = None) -> None:
        for id in ids:
            self._record.add(event, id, **({} if error is None else {"error": type(error).__name__}))
