"""`client.models`: the models that workers serve, with their workers and open jobs, and canaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from producer.client.job_queue import JobQueue
from producer.client.threads import Threads
from vqa.errors import ModelNotFound, SettingsError
from vqa.jobs.lane import LANES, Lane
from vqa.ledger.ledger import STATES
from vqa.ledger.models import Canary, Models, model_queues
from vqa.ledger.records import State, WorkerInfo
from vqa.routing import MODEL_CHARACTERS, is_model_name, model_of, queue_name

#: as `ModelRegistry.depths` counts
_NO_JOBS = (0,) * (len(STATES) + 1)


@dataclass(frozen=True, slots=True)
class ModelState:
    """A model that jobs may name."""

    name: str
    #: names of the workers that are up and serve it
    workers: tuple[str, ...]
    #: of these workers together
    slots: int
    #: seconds since a worker last said that it serves the model; None if that is forgotten, and only its jobs are left
    seen_s: float | None
    #: open jobs that wait for this model or that it runs
    counts: Mapping[Lane, Mapping[State, int]]
    #: seconds that the oldest queued job has waited, by lane; 0 if none is queued
    oldest_s: Mapping[Lane, int]
    #: the model that a share of this model's jobs goes to
    canary: Canary | None = None


class ModelsResource:
    """`client.models`."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def list(self) -> list[ModelState]:
        """Return the models that workers serve, or have served within VQA_MODEL_KEEP_S, or that have jobs, by name."""
        with self._queue.redis_errors():
            registry = self._queue.models
            models, workers = registry.read(), self._queue.workers()
            depths = registry.depths(model_queues(self._queue.redis))
            names = {name for queue, counts in depths.items() if any(counts) and (name := model_of(queue))}
            return [_state(name, models, workers, depths) for name in sorted(names.union(models.served))]

    def set_canary(self, name: str, canary: str, percent: float) -> None:
        """Send `percent` of a model's new jobs to another model, as long as a worker of that one is up.

        Which jobs follows from their ids. Raises ModelNotFound, and SettingsError for another share than 0 to 100.
        """
        if not 0 <= percent <= 100:
            raise SettingsError(f"the share must be from 0 to 100 percent, not {percent:g}")
        if name == canary:
            raise SettingsError("a model cannot be its own canary")
        with self._queue.redis_errors():
            models = self._queue.models.read()
            for each in (name, canary):
                _require_name(each)
                models.require(each)
            self._queue.models.set_canary(name, Canary(canary, percent))

    def remove_canary(self, name: str) -> bool:
        """Send all new jobs to the model itself again; return False if it had no canary."""
        _require_name(name)
        with self._queue.redis_errors():
            return self._queue.models.set_canary(name, None)


class AsyncModelsResource:
    """`ModelsResource` with `await`; its methods are documented there."""

    def __init__(self, queue: JobQueue, threads: Threads) -> None:
        self._models = ModelsResource(queue)
        self._threads = threads

    async def list(self) -> list[ModelState]:
        return await self._threads.short(self._models.list)

    async def set_canary(self, name: str, canary: str, percent: float) -> None:
        await self._threads.short(self._models.set_canary, name, canary, percent)

    async def remove_canary(self, name: str) -> bool:
        return await self._threads.short(self._models.remove_canary, name)


def takes(worker: WorkerInfo, model: str | None) -> bool:
    """Return whether a worker takes jobs of a model, or with None jobs that name none."""
    if model is None:
        return worker.about.get("takes_unnamed") is not False
    names = worker.about.get("models")
    return isinstance(names, list) and model in names


def _require_name(name: str) -> None:
    if not is_model_name(name):
        raise ModelNotFound(f"a model's name has {MODEL_CHARACTERS}")


def _state(
    name: str, models: Models, workers: Sequence[WorkerInfo], depths: Mapping[str, tuple[int, ...]]
) -> ModelState:
    own = [worker for worker in workers if takes(worker, name)]
    # a model that has come since the queues were read has none
    rows = {lane: depths.get(queue_name(lane, name), _NO_JOBS) for lane in LANES}
    served = models.served.get(name)
    return ModelState(
        name=name,
        workers=tuple(worker.name for worker in own),
        slots=sum(slots for worker in own if isinstance(slots := worker.about.get("slots"), int)),
        seen_s=None if served is None else max(0.0, served.ago_s),
        counts={lane: dict(zip(STATES, row, strict=False)) for lane, row in rows.items()},
        oldest_s={lane: row[len(STATES)] for lane, row in rows.items()},
        canary=models.canaries.get(name),
    )
