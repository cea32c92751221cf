"""What is said about an answer may be unknown; the answer is kept."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqa.answer import Timings, Usage

NONSENSE = st.none() | st.text() | st.integers() | st.floats() | st.just(10**400) | st.booleans()


@pytest.mark.parametrize("unknown", [-28.3, -1, math.nan, math.inf, None, "soon"])
def test_a_figure_that_cannot_be_is_0(unknown: object) -> None:
    told = {"queued_s": unknown, "media_s": 0.5, "engine_s": 1, "total_s": unknown}
    assert Timings.model_validate(told) == Timings(queued_s=0, media_s=0.5, engine_s=1, total_s=0)
    usage = Usage.model_validate({"prompt_tokens": unknown, "completion_tokens": 2})
    assert usage == Usage(prompt_tokens=0, completion_tokens=2)


@given(st.fixed_dictionaries(dict.fromkeys(Timings.model_fields, NONSENSE)))
def test_no_figure_is_refused(told: dict[str, object]) -> None:
    assert all(0 <= seconds < math.inf for _, seconds in Timings.model_validate(told))


@given(st.fixed_dictionaries(dict.fromkeys(Usage.model_fields, NONSENSE)))
def test_no_count_is_refused(told: dict[str, object]) -> None:
    assert Usage.model_validate(told).total_tokens >= 0
