"""Predicts the ends of batches from what Redis holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from redis import Redis

from producer.prediction.prediction import Prediction, predicted
from producer.prediction.reading import read_places, read_queue_names, read_queues
from vqa.ledger.batch_state import BatchState
from vqa.ledger.ledger import WORKERS, living_workers


def predict(redis: Redis, states: Sequence[BatchState], lease_s: float) -> dict[str, Prediction]:
    """Return a prediction by id for each batch that is neither over nor being cancelled, in six round trips.

    Workers are up that renewed within `lease_s`. Raises redis.exceptions.RedisError.
    """
    running = [state for state in states if not state.is_over and state.status != "cancelling"]
    if not running:
        return {}
    names = read_queue_names(redis, running)
    places = read_places(redis, running, names)
    seconds, micros = redis.time()
    queues = read_queues(redis, sorted(set(names.values())), seconds + micros / 1e6)
    workers = len(living_workers(cast(dict[bytes, bytes], redis.hgetall(WORKERS)), seconds, lease_s + 1))
    now = seconds * 1000 + micros // 1000
    return {state.id: predicted(state, queues[names[state.id]], places[state.id], workers, now) for state in running}
