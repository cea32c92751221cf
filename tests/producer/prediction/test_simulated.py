"""Predictions of simulated queues: several tenants and batches, service times of any spread, slots that come and go."""

from collections.abc import Callable
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from producer.prediction import Prediction
from tests.producer.prediction.queue_model import Batch, QueueModel

MARKS = (0.25, 0.5, 0.75)


def service(mean_s: float, spread: float) -> Callable[[Random], float]:
    return lambda random: max(0.05, random.gauss(mean_s, mean_s * spread))


def run(queue: QueueModel, id: str) -> list[tuple[float, Prediction]]:
    """Answer everything; return when each quarter of a batch was done, and what was predicted then."""
    batch, marks, found = queue.batches[id], list(MARKS), []
    while batch.open:
        queue.step()
        while marks and batch.done >= marks[0] * batch.rows:
            marks.pop(0)
            found.append((queue.now_s, queue.prediction(id)))
    return found


@settings(max_examples=60, deadline=None)
@given(
    slots=st.sampled_from([4, 8, 16, 32]),
    mean_s=st.sampled_from([0.5, 2.0, 5.0]),
    spread=st.sampled_from([0.0, 0.3, 0.6]),
    minutes=st.integers(1, 5),
    others=st.lists(st.floats(0.1, 1.5), max_size=3),
    seed=st.integers(0, 1000),
)
def test_a_batch_ends_when_predicted_whoever_else_waits(
    slots: int, mean_s: float, spread: float, minutes: int, others: list[float], seed: int
) -> None:
    queue = QueueModel(slots, service(mean_s, spread), seed)
    rows = int(minutes * 60 * slots / mean_s / (1 + len(others)))
    queue.submit(Batch("own", "own", rows))
    for number, size in enumerate(others):
        queue.submit(Batch(f"other{number}", f"other{number}", max(1, int(rows * size))))
    predictions = run(queue, "own")
    end_s = queue.batches["own"].ended_s
    for at_s, prediction in predictions:
        assert prediction.end is not None
        # of the time that was left a third, and some jobs
        assert abs(prediction.end / 1000 - end_s) <= 0.35 * (end_s - at_s) + 4 * mean_s
        assert prediction.earliest is None or prediction.earliest / 1000 <= end_s + 0.1 * (end_s - at_s) + mean_s
        assert prediction.latest is None or prediction.latest / 1000 >= end_s - 0.1 * (end_s - at_s) - mean_s


@settings(max_examples=20, deadline=None)
@given(before=st.sampled_from([4, 8, 16]), after=st.sampled_from([4, 8, 16]), seed=st.integers(0, 1000))
def test_a_minute_after_slots_come_or_go_the_end_is_right_again(before: int, after: int, seed: int) -> None:
    queue = QueueModel(before, service(1.0, 0.3), seed)
    began_s = queue.now_s
    queue.submit(Batch("own", "own", 120 * before + 400 * after))
    while queue.now_s < began_s + 120:
        queue.step()
    queue.slots = after
    while queue.now_s < began_s + 175:
        queue.step()
    prediction, at_s = queue.prediction("own"), queue.now_s
    run(queue, "own")
    assert prediction.end is not None
    assert abs(prediction.end / 1000 - queue.batches["own"].ended_s) <= 0.2 * (queue.batches["own"].ended_s - at_s) + 4


def test_a_later_batch_of_the_same_tenant_waits_for_the_first() -> None:
    queue = QueueModel(8, service(1.0, 0.3), 1)
    for id in ("first", "second"):
        queue.submit(Batch(id, "lab", 900))
        queue.now_s += 1
    for _ in range(400):
        queue.step()
    first, second = queue.prediction("first"), queue.prediction("second")
    run(queue, "second")
    ends = [queue.batches[id].ended_s for id in ("first", "second")]
    for prediction, end_s in zip((first, second), ends, strict=True):
        assert prediction.end is not None
        assert abs(prediction.end / 1000 - end_s) <= 0.15 * end_s - 0.15 * queue.now_s + 30


def test_a_small_tenants_batch_does_not_wait_for_a_large_tenants() -> None:
    queue = QueueModel(8, service(1.0, 0.3), 3)
    queue.submit(Batch("large", "a", 20_000))
    for _ in range(300):
        queue.step()
    queue.submit(Batch("small", "b", 100))
    queue.step()
    prediction, at_s = queue.prediction("small"), queue.now_s
    run(queue, "small")
    assert prediction.end is not None
    # 72 jobs are in flight, then the tenants take turns
    assert abs(prediction.end / 1000 - queue.batches["small"].ended_s) <= 5
    assert prediction.end / 1000 - at_s < 60
