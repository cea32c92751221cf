"""Times and tokens of answered jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from vqa.answer import Answer
from vqa.jobs.job import Job
from vqa.jobs.lane import Lane
from vqa.ledger.records import Lease
from vqa.metrics import declared
from vqa.metrics.families import Family
from vqa.results import Outcome
from workers.jobs.text_buffer import OnShow
from workers.metrics.instruments import Count, Seconds


class JobMetrics(Collector):
    """Middleware that counts; outermost, so that it sees reused answers, too."""

    def __init__(self) -> None:
        #: held while anything is added or read
        self._lock = threading.Lock()
        self._queued_s, self._media_s = Seconds(declared.QUEUED_S), Seconds(declared.MEDIA_S)
        self._engine_s, self._total_s = Seconds(declared.ENGINE_S), Seconds(declared.TOTAL_S)
        self._slot_wait_s, self._prefill_s = Seconds(declared.SLOT_WAIT_S), Seconds(declared.PREFILL_S)
        self._decode_s = Seconds(declared.DECODE_S)
        self._first_text_s = Seconds(declared.FIRST_TEXT_S)
        self._prompt_tokens, self._cached_tokens = Count(declared.PROMPT_TOKENS), Count(declared.CACHED_TOKENS)
        self._answer_tokens = Count(declared.ANSWER_TOKENS)
        self._reused, self._redelivered = Count(declared.REUSED), Count(declared.REDELIVERED)
        #: `lease`: of the streamed job that the thread answers
        self._thread = threading.local()

    def collect(self) -> Iterator[Family | HistogramMetricFamily]:
        with self._lock:
            found = [each.family() for each in vars(self).values() if isinstance(each, Seconds | Count)]
        yield from found

    def before(self, job: Job, lease: Lease) -> Answer | None:
        if lease.header.lost:
            with self._lock:
                self._redelivered.add(lease.header.lane)
        if lease.header.stream:
            self._thread.lease = lease
        return None

    def after(self, job: Job, lease: Lease, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Answer):
            with self._lock:
                self._answered(lease, outcome)
        return outcome

    def _answered(self, lease: Lease, answer: Answer) -> None:
        lane, timings, usage = lease.header.lane, answer.timings, answer.usage
        self._queued_s.add(lane, timings.queued_s)
        self._total_s.add(lane, timings.total_s)
        if answer.reused:
            # its tokens and seconds were another job's
            self._reused.add(lane)
            return
        self._media_s.add(lane, timings.media_s)
        self._engine_s.add(lane, timings.engine_s)
        # zeros of an engine that does not tell would hide those of the others
        if timings.decode_s or timings.prefill_s or timings.slot_wait_s:
            self._slot_wait_s.add(lane, timings.slot_wait_s)
            self._prefill_s.add(lane, timings.prefill_s)
            self._decode_s.add(lane, timings.decode_s)
        self._prompt_tokens.add(lane, usage.prompt_tokens)
        self._cached_tokens.add(lane, usage.cached_tokens)
        self._answer_tokens.add(lane, usage.completion_tokens)

    def _first_text(self, lane: Lane, seconds: float) -> None:
        with self._lock:
            self._first_text_s.add(lane, seconds)

    def measuring(self, on_show: Callable[[Job], OnShow | None]) -> Callable[[Job], OnShow | None]:
        """Wrap `Answering.on_show` so that the time to a streamed job's first text is measured.

        It is called by the thread that answers the job, after `before`.
        """

        def shown(job: Job) -> OnShow | None:
            filtered, lease = on_show(job), getattr(self._thread, "lease", None)
            if lease is None:
                return filtered
            del self._thread.lease
            return _FirstText(filtered, partial(self._first_text, lease.header.lane), lease).push

        return shown


class _FirstText:
    """Calls `observe` once with the job's age in seconds at the first text that is shown."""

    def __init__(self, on_show: OnShow | None, observe: Callable[[float], None], lease: Lease) -> None:
        self._on_show = on_show
        self._observe: Callable[[float], None] | None = observe
        self._lease = lease

    def push(self, piece: str) -> str:
        text = piece if self._on_show is None else self._on_show(piece)
        if text and self._observe is not None:
            self._observe(self._lease.age_s)
            self._observe = None
        return text
