"""How well a batch's end is predicted: `python -m bench prediction`, echo engine, real workers, some minutes a batch.

Answers take 0.2 to 8 s, 2 s on average, as the lengths of answers differ. The end is predicted when a quarter, half and
three quarters of the rows are done.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from bench.figures import Row
from bench.stage import worker
from producer import Batch, Client, Prediction
from producer.demo.redis_server import EmbeddedRedis

_MARKS = (0.25, 0.5, 0.75)
_SLOTS = 16
_MEAN_S = 2.0
_LOOK_S = 0.5
#: of the time that is left, how much a prediction may be off
_MOST_OFF = 0.15


@dataclass(frozen=True)
class Scene:
    """A batch and what is beside it."""

    name: str
    rows: int
    #: rows of another tenant's batch that is submitted before
    others: int = 0
    #: how much of the batch is done when a second worker, as large as the first, comes
    second_worker_at: float | None = None
    #: when the prediction is judged: half a minute after the rate has changed, at the earliest
    judged_at: float = 0.5


SCENES = (
    Scene("alone", 960),
    Scene("beside another tenant's larger batch", 480, others=1500),
    Scene("a second worker comes at a third", 1440, second_worker_at=1 / 3, judged_at=0.75),
)


@dataclass(frozen=True)
class Forecast:
    """A prediction, and what became of it."""

    mark: float
    made_s: float
    prediction: Prediction

    def off_s(self, end_s: float) -> float:
        assert self.prediction.end is not None
        return self.prediction.end / 1000 - end_s


def rows(scenes: tuple[Scene, ...] = SCENES) -> list[Row]:
    """Start Redis and workers for each scene, and measure."""
    return [row for scene in scenes for row in _scene_rows(scene)]


def _scene_rows(scene: Scene) -> Iterator[Row]:
    forecasts, began_s, end_s = _run(scene)
    for each in forecasts:
        off_s, left_s = each.off_s(end_s), end_s - each.made_s
        first, last = each.prediction.earliest, each.prediction.latest
        bounds = [f"{at / 1000 - end_s:+.0f}" if at is not None else "none" for at in (first, last)]
        yield Row(
            f"predicted end, {scene.name}, at {each.mark:.0%}",
            f"{off_s:+.1f} s, bounds {' and '.join(bounds)} s",
            f"{left_s:.0f} s left of {end_s - began_s:.0f} s",
            f"at {scene.judged_at:.0%}: at most {_MOST_OFF:.0%} of what is left",
            each.mark != scene.judged_at or abs(off_s) <= _MOST_OFF * left_s,
        )


def _run(scene: Scene) -> tuple[list[Forecast], float, float]:
    """Return the predictions, and the batch's beginning and end in seconds on Redis's clock."""
    variables = {"VQA_ENGINE": "echo", "VQA_SLOTS": str(_SLOTS), "VQA_DRAIN_S": "1"}
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedRedis())
        client = stack.enter_context(Client(redis_url=server.url))
        stack.enter_context(worker(client, **variables))
        if scene.others:
            client.batches.create(_questions(scene.others, 1), tenant="other")
        batch = client.batches.create(_questions(scene.rows, 2), tenant="own")
        found: list[Forecast] = []
        grows = scene.second_worker_at
        while not (state := batch.state()).is_over:
            if grows is not None and state.done >= grows * scene.rows:
                grows = None
                stack.enter_context(worker(client, name="second", **variables))
            if len(found) < len(_MARKS) and state.done >= _MARKS[len(found)] * scene.rows:
                found.append(_forecast(batch, _MARKS[len(found)]))
            time.sleep(_LOOK_S)
        return found, state.created / 1000, state.times[state.status] / 1000


def _forecast(batch: Batch, mark: float) -> Forecast:
    prediction = batch.prediction()
    assert prediction is not None
    return Forecast(mark, prediction.made / 1000, prediction)


def _questions(count: int, seed: int) -> Iterator[dict[str, object]]:
    generator = random.Random(seed)
    for number in range(count):
        delay_s = min(8.0, max(0.2, generator.lognormvariate(0.5, 0.7) * _MEAN_S / 2.1))
        metadata = {"echo_delay_s": f"{delay_s:.3f}"}
        yield {"id": str(number), "messages": [{"role": "user", "content": f"{number}?"}], "metadata": metadata}
