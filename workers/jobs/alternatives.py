"""The further answers of a job whose `n` is more than 1."""

from __future__ import annotations

from vqa.answer import Alternative
from vqa.jobs.job import Job
from workers.engine.base import Completion
from workers.jobs.sampling import answer_logprobs


def alternatives(job: Job, completion: Completion) -> tuple[Alternative, ...]:
    """Return the answers beside the first. Raises what `Job.parse` raises for one that is not in the job's format."""
    return tuple(
        Alternative(
            text=each.text,
            finish_reason=each.finish_reason,
            parsed=job.parse(each.text),
            reasoning=each.reasoning,
            logprobs=answer_logprobs(job, each),
        )
        for each in completion.alternatives
    )
