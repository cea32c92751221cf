"""Submits jobs through a real client, collects their outcomes and records both, as a careful service would."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from celery import Celery
from kombu.exceptions import KombuError

from producer import Client
from tests.chaos.jobs import Case
from tests.chaos.record import Ending, History, Record
from vqa.celery import TASK
from vqa.errors import AnswerTimeout, QueueUnavailable, VQAError
from vqa.settings import QueueSettings

#: jobs per call
_MAX_IDS = 2000


class Submitter:
    """A client and its record. Any thread may submit, but only one may collect."""

    def __init__(self, settings: QueueSettings, record: Record, before: Iterable[History] = ()) -> None:
        self._client = Client(settings)
        self._record = record
        # another service's app: it knows only the broker, the task's name and the job's JSON
        self._app = Celery("other", broker=settings.redis_url, set_as_current=False)
        limits = {"socket_timeout": settings.redis_timeout_s, "socket_connect_timeout": settings.redis_timeout_s}
        self._app.conf.broker_transport_options = limits
        self._lock = threading.Lock()
        open_before = [history for history in before if not history.endings]
        #: accepted, and not known to have ended
        self._pending = {history.id for history in open_before if history.accepted}
        #: perhaps accepted: the call raised, or a message was sent
        self._uncertain = {history.id for history in open_before} - self._pending

    def close(self) -> None:
        self._client.close()
        self._app.close()

    @property
    def waiting(self) -> int:
        """Number of jobs known to be open."""
        return len(self._pending)

    def is_open(self, id: str) -> bool:
        return id in self._pending

    @property
    def uncertain(self) -> int:
        """Number of jobs that may be open."""
        return len(self._uncertain)

    def submit(self, cases: Sequence[Case]) -> bool:
        """Submit through the client; return False if it raised."""
        for each in cases:
            self._record.add("intent", each.job.id, kind=each.kind, expect=each.expect)
        ids = [each.job.id for each in cases]
        try:
            if len(cases) == 1:
                self._client.submit(cases[0].job)
            else:
                self._client.submit_many(each.job for each in cases)
        except VQAError as error:
            self._record_all(ids, "raised", error)
            with self._lock:
                self._uncertain.update(id for id in ids if id not in self._pending)
            return False
        self._record_all(ids, "accepted")
        with self._lock:
            self._pending.update(ids)
            self._uncertain.difference_update(ids)
        return True

    def send(self, case: Case) -> None:
        """Send a message as another Celery app does, with the job as its body and the job's id as the task id."""
        id, lane = case.job.id, case.job.lane
        self._record.add("intent", id, kind=case.kind, expect=case.expect)
        with self._lock:
            self._uncertain.add(id)
        try:
            self._app.send_task(TASK, [json.loads(case.job.to_json())], task_id=id, queue=lane)
        except (OSError, KombuError) as error:
            self._record_all([id], "raised", error)
        else:
            self._record.add("sent", id)

    def cancel(self, id: str) -> None:
        self._record.add("cancel", id)
        try:
            self._record.add("cancelled", id, said=self._client.cancel(id))
        except QueueUnavailable as error:
            self._record_all([id], "raised", error)

    def collect(self, for_s: float) -> None:
        """Collect outcomes for `for_s` seconds."""
        until = time.monotonic() + for_s
        try:
            self._check_uncertain()
            with self._lock:
                ids = list(self._pending)[:_MAX_IDS]
            for id, outcome in self._client.answers(ids, timeout_s=for_s) if ids else ():
                if not isinstance(outcome, AnswerTimeout):
                    self._record.add("ended", id, ending=asdict(Ending.from_outcome(outcome)))
                    with self._lock:
                        self._pending.discard(id)
        except QueueUnavailable:
            pass
        time.sleep(max(0.0, min(for_s, until - time.monotonic())))

    def _check_uncertain(self) -> None:
        with self._lock:
            ids = list(self._uncertain)[:_MAX_IDS]
        found = [id for id, state in self._client.states(ids).items() if state.state != "unknown"] if ids else []
        with self._lock:
            # a job that has ended meanwhile is collected like any other
            self._uncertain.difference_update(found)
            self._pending.update(found)
        for id in found:
            self._record.add("found", id)

    def _record_all(self, ids: Sequence[str], event: str, error: BaseException | None = None) -> None:
        for id in ids:
            self._record.add(event, id, **({} if error is None else {"error": type(error).__name__}))
