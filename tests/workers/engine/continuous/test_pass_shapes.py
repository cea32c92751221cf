"""The shapes that passes are captured in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.engine.continuous.cuda_graphs import _fits, mixed_shape, mixed_sizes, step_sizes
from workers.engine.continuous.pass_inputs import PassShape
from workers.engine.continuous.scheduler import Batch
from workers.engine.continuous.sequence import Chunk, Sequence


@st.composite
def batches(draw: st.DrawFn, slots: int, budget: int) -> Batch:
    """Within the budget, with at least one chunk."""
    decode = draw(st.integers(0, min(slots, budget) - 1))
    lengths: list[int] = []
    while len(lengths) < slots - decode and (left := budget - decode - sum(lengths)):
        lengths.append(draw(st.integers(1, left)))
        if draw(st.booleans()):
            break
    ends = [draw(st.booleans()) for _ in lengths]
    chunks = [Chunk(Sequence(length + (not end), 1), 0, length) for length, end in zip(lengths, ends, strict=True)]
    return Batch(tuple(Sequence(1, 2) for _ in range(decode)), tuple(chunks))


@given(slots=st.integers(1, 80), budget=st.integers(64, 400), data=st.data())
def test_every_pass_within_the_budget_fits_the_next_larger_shape_and_no_shape_has_more_outputs_than_rows(
    slots: int, budget: int, data: st.DataObject
) -> None:
    shape = PassShape.of(data.draw(batches(slots, budget)))
    captured = [mixed_shape(rows, slots) for rows in mixed_sizes(budget)]
    step = PassShape(shape.decode, shape.decode, 0, shape.decode)

    assert all(max(each.decode, each.chunks, each.outputs) <= min(each.rows, slots) for each in captured)
    assert _fits(shape, next(each for each in captured if each.rows >= shape.rows))
    assert not shape.decode or any(_fits(step, PassShape(rows, rows, 0, rows)) for rows in step_sizes(slots))
