"""What a job's answer says of its tokens."""

from __future__ import annotations

import math

import pytest

from vqa import Job
from workers.engine.base import Completion, TokenLogprob
from workers.jobs.sampling import answer_logprobs


@pytest.mark.parametrize("logprob", [-math.inf, math.nan], ids=str)
def test_a_logarithm_that_json_has_not_is_as_openai_writes_it(logprob: float) -> None:
    token = TokenLogprob(0, b"x", logprob, (TokenLogprob(1, b"y", logprob),))
    job = Job(messages=[{"role": "user", "content": "?"}], max_new_tokens=8, logprobs=True, top_logprobs=1)

    made = answer_logprobs(job, Completion("x", "stop", 1, 1, logprobs=(token,)))

    assert made is not None
    assert [(each.logprob, each.top_logprobs[0].logprob) for each in made] == [(-9999.0, -9999.0)]
