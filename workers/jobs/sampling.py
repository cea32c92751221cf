"""How a job's tokens are chosen, and the log probabilities of its answer."""

from __future__ import annotations

import math

from vqa.answer import TokenLogprob, TopLogprob
from vqa.jobs.job import Job
from workers.engine import base
from workers.engine.model.generation_config import SamplingDefaults

#: in place of a logarithm that is no number, or minus infinity, which JSON has not; as OpenAI writes it
_IMPOSSIBLE = -9999.0


def sampling_params(job: Job, defaults: SamplingDefaults) -> base.SamplingParams:
    """Return how to generate the job's answer; `defaults` are for jobs that do not say how tokens are chosen."""
    own = SamplingDefaults(job.temperature, job.top_p, job.top_k or 0, job.min_p or 0.0)
    sampling = own if job.sampling_is_given else defaults
    return base.SamplingParams(
        job.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        presence_penalty=job.presence_penalty or 0.0,
        frequency_penalty=job.frequency_penalty or 0.0,
        repetition_penalty=job.repetition_penalty,
        seed=job.seed,
        stop=job.stop,
        grammar=job.grammar,
        logprobs=job.logprobs,
        top_logprobs=job.top_logprobs,
        n=job.n,
        choices=job.scored_choices,
        max_reasoning_tokens=job.max_reasoning_tokens,
    )


def answer_logprobs(job: Job, completion: base.Completion) -> tuple[TokenLogprob, ...] | None:
    """Return the log probabilities of the completion's tokens, if the job asks for them."""
    if not job.logprobs:
        return None
    return tuple(
        TokenLogprob(
            token=_text(each),
            logprob=_rounded(each),
            bytes=tuple(each.text),
            top_logprobs=tuple(
                TopLogprob(token=_text(other), logprob=_rounded(other), bytes=tuple(other.text)) for other in each.top
            ),
        )
        for each in completion.logprobs
    )


def _text(token: base.TokenLogprob) -> str:
    return token.text.decode(errors="replace")


def _rounded(token: base.TokenLogprob) -> float:
    # further digits are noise of bfloat16, and a part of the answer's size
    return round(token.logprob, 6) if math.isfinite(token.logprob) else _IMPOSSIBLE
