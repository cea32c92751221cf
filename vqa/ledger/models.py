"""The models that workers serve, and the canaries among them: who is asked when a job names a model.

Workers write the names at each renewal, and these outlive the workers by VQA_MODEL_KEEP_S, so that jobs are accepted
while all of a model's workers restart. lua/models.lua describes the keys.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

from redis import Redis

from vqa.errors import ModelNotFound
from vqa.jobs.job import Job
from vqa.jobs.lane import LANES
from vqa.ledger.records import texts
from vqa.ledger.script import Script
from vqa.routing import is_in_share, is_model_name, queue_name

MODELS = "vqa:models"
OPEN_MODELS = "vqa:models:open"
CANARIES = "vqa:canary"

#: seconds for which a process reuses what it has read
_FRESH_S = 1.0

#: served models that an error names, and characters of the one that is not
_NAMED, _SHOWN = 10, 128

#: a larger number is no time
_LARGEST = 2**53


@dataclass(frozen=True, slots=True)
class Served:
    """A model that workers serve, or have served lately."""

    name: str
    #: seconds since a worker said so; less than 0 if Redis's clock was set back
    ago_s: float
    #: whether the name was given to a worker lately (VQA_SERVED_NAME); the others are those of what workers have loaded
    declared: bool = False


@dataclass(frozen=True, slots=True)
class Canary:
    """A share of a model's jobs that another model answers."""

    model: str
    percent: float


@dataclass(frozen=True, slots=True)
class Models:
    """What Redis says of models at one moment."""

    served: Mapping[str, Served] = field(default_factory=dict)
    canaries: Mapping[str, Canary] = field(default_factory=dict)
    #: seconds after its last renewal within which a worker is up
    lease_s: float = math.inf

    @classmethod
    def parse(
        cls, listed: Mapping[bytes, bytes], canaries: Mapping[bytes, bytes], now_s: float, keep_s: float, lease_s: float
    ) -> Self:
        """Read the two hashes; what is older than `keep_s`, or another program has damaged, is left out."""
        found = (_served(*each, now_s, keep_s) for each in listed.items())
        served = {each.name: each for each in found if each is not None}
        split = {name: canary for name, canary in map(_canary, canaries.items()) if name and canary}
        return cls(served, split, lease_s)

    @property
    def names(self) -> list[str]:
        return sorted(self.served)

    @property
    def are_declared(self) -> bool:
        """Whether a worker was given a name, so that names in others' requests count."""
        return any(model.declared for model in self.served.values())

    def is_up(self, name: str) -> bool:
        """Return whether a worker serves the model now."""
        return name in self.served and abs(self.served[name].ago_s) <= self.lease_s

    def require(self, name: str) -> None:
        """Raise ModelNotFound, with the models that are served, if this is not one of them."""
        if name not in self.served:
            shown = f"{name[:_SHOWN]}..." if len(name) > _SHOWN else name
            raise ModelNotFound(f"model: no worker serves {shown!r}; {self._said()}")

    def _said(self) -> str:
        names = self.names
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return f"served: {', '.join(names[:_NAMED])}{more}" if names else "no model is served"

    def named(self, name: str | None) -> str | None:
        """Return the model that another API's request names, which counts only if names are declared.

        Raises ModelNotFound. Before workers were given names, whatever a request named was answered.
        """
        if name is None or not self.are_declared:
            return None
        self.require(name)
        return name

    def route(self, job: Job) -> str | None:
        """Return the model whose workers get the job; None for whichever worker takes it. Raises ModelNotFound.

        A canary follows from the job's id, so that a job that is sent again goes the same way. One without a worker
        that is up gets no jobs.
        """
        if (name := job.model) is None:
            return None
        self.require(name)
        canary = self.canaries.get(name)
        if canary is None or not self.is_up(canary.model) or not is_in_share(name, job.id, canary.percent):
            return name
        return canary.model


class ModelRegistry:
    """Reads and writes them. Thread-safe. Methods raise redis.exceptions.RedisError."""

    def __init__(self, redis: Redis, keep_s: float, lease_s: float, own: Iterable[str] = ()) -> None:
        """`own` are served by this process, also before its first renewal says so."""
        self._redis = redis
        self._keep_s, self._lease_s = keep_s, lease_s
        self._own = {name: Served(name, ago_s=0) for name in own}
        self._run = Script(redis)
        self._last = Models()
        self._read_at = -math.inf

    def read(self) -> Models:
        """Return the models as they are now."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hgetall(MODELS)
            pipe.hgetall(CANARIES)
            (seconds, micros), listed, canaries = pipe.execute()
        models = Models.parse(listed, canaries, seconds + micros / 1e6, self._keep_s, self._lease_s)
        self._last = replace(models, served={**self._own, **models.served})
        self._read_at = time.monotonic()
        return self._last

    def route(self, jobs: Iterable[Job]) -> dict[str, str]:
        """Return the model that each job goes to, by its id; jobs that name none are left out. Raises ModelNotFound.

        Reads from Redis once in a second at most, and anew before a job is refused.
        """
        named = [job for job in jobs if job.model is not None]
        if not named:
            return {}
        models = self.lately()
        if not all(job.model in models.served for job in named):
            models = self.read()
        routes = {job.id: models.route(job) for job in named}
        return {id: model for id, model in routes.items() if model is not None}

    def named(self, name: str, counts: bool) -> str | None:
        """Return the model of a job that names one, or of another API's request, unless its name `counts`.

        Raises ModelNotFound.
        """
        models = self.lately()
        if name not in models.served:
            models = self.read()
        if not counts:
            return models.named(name)
        models.require(name)
        return name

    def lately(self) -> Models:
        """Return the models as they were at most a second ago."""
        return self._last if time.monotonic() - self._read_at < _FRESH_S else self.read()

    def set_canary(self, name: str, canary: Canary | None) -> bool:
        """Send a share of a model's new jobs to another model; None ends it. Return whether there was one before."""
        if canary is None:
            return bool(self._redis.hdel(CANARIES, name))
        value = json.dumps({"model": canary.model, "percent": canary.percent})
        return not self._redis.hset(CANARIES, name, value)

    def forget(self) -> list[str]:
        """Forget models that nobody has served for as long as they are kept; return their names."""
        return texts(cast(list[bytes], self._run([], "forget_models", round(self._keep_s * 1000))))

    def depths(self, queues: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Return the numbers of waiting, queued, leased and delayed jobs of each queue, and its oldest's age in s."""
        now_ms = time_ms(self._redis)
        found = cast(list[Any], self._run([], "depths", *queues)) if queues else []
        rows = (found[start : start + 5] for start in range(0, len(found), 5))
        return {
            queue: (*row[:4], round(max(0.0, now_ms - float(row[4])) / 1000) if row[4] else 0)
            for queue, row in zip(queues, rows, strict=True)
        }


def time_ms(redis: Redis) -> float:
    seconds, micros = redis.time()
    return seconds * 1000 + micros / 1000


def model_queues(redis: Redis) -> list[str]:
    """Return the queues of all models that have jobs or are served, and those of jobs that name none, first."""
    with redis.pipeline(transaction=False) as pipe:
        pipe.zrange(OPEN_MODELS, 0, -1)
        pipe.hgetall(MODELS)
        # a key of another type, which the sweep sets aside, must not keep it from the queues
        found = [each for each in pipe.execute(raise_on_error=False) if isinstance(each, list | dict)]
    names = {name for each in found for name in texts(each) if is_model_name(name)}
    return [queue_name(lane, model) for model in (None, *sorted(names)) for lane in LANES]


def _served(name: bytes, value: bytes, now_s: float, keep_s: float) -> Served | None:
    [model], fields = texts([name]) or [""], _object(value)
    ago_s, declared_s = (_ago_s(fields.get(field), now_s) for field in ("seen", "declared"))
    return Served(model, ago_s, abs(declared_s) <= keep_s) if is_model_name(model) and abs(ago_s) <= keep_s else None


def _ago_s(ms: object, now_s: float) -> float:
    is_time = isinstance(ms, int | float) and not isinstance(ms, bool) and abs(ms) < _LARGEST
    return now_s - float(cast(float, ms)) / 1000 if is_time else math.inf


def _canary(item: tuple[bytes, bytes]) -> tuple[str, Canary | None]:
    [name], fields = texts([item[0]]) or [""], _object(item[1])
    model, percent = fields.get("model"), fields.get("percent")
    is_share = isinstance(percent, int | float) and not isinstance(percent, bool) and 0 <= percent <= 100
    return name, Canary(str(model), float(cast(float, percent))) if is_share and is_model_name(model) else None


def _object(value: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}
