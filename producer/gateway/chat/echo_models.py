"""Models that need no worker: they answer at once with the question, for integrators who try their code.

Their jobs pass through ledger and result backend as all others, but no message is published, so no worker takes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from producer.client.job_queue import JobQueue
from producer.client.submission import PreparedJob
from producer.gateway.errors import Forbidden
from vqa.answer import Answer, Timings, Usage
from vqa.celery import publish_promoted
from vqa.errors import InvalidJob, QueueFull
from vqa.gateway_settings import GatewaySettings
from vqa.jobs.job import Job
from vqa.jobs.message import TextPart
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import Ending
from vqa.results import encode, tally
from vqa.structured_output.response_format import TextFormat

TEST_MODELS = ("batch-test-model", "vqa-echo")

#: in an answer's field `worker`
_WORKER = "test-model@gateway"


def is_test_model(model: str | None, settings: GatewaySettings) -> bool:
    """Return whether the model is a test model. Raises Forbidden if it is one and they are switched off."""
    if model not in TEST_MODELS:
        return False
    if not settings.test_models:
        raise Forbidden(
            f"model {model} answers without a worker and is switched off; VQA_GATEWAY_TEST_MODELS=1 allows it",
            param="model",
            code="test_models_off",
        )
    return True


def refuse_structured(model: str | None, job: Job) -> None:
    """Raise InvalidJob if a test model is asked for a structured answer: what it repeats has no structure."""
    if model in TEST_MODELS and not isinstance(job.response_format, TextFormat | None):
        raise InvalidJob(f"response_format: model {model} repeats the question and gives no structured answers")


def answer_at_once(queue: JobQueue, jobs: Sequence[PreparedJob], model: str) -> Mapping[str, QueueFull]:
    """Accept and answer the jobs, also of detached batches; return why jobs were refused, by id. For threads.

    Jobs that Redis knows already are closed if they are open, else left as they are. Raises ImageMissing, or one of
    connection.REDIS_ERRORS.
    """
    verdicts = queue.accept(jobs)
    endings = [_ending(queue, job.job, model) for job in jobs if verdicts[job.id] in ("accepted", "waiting", "open")]
    closed = Ledger(queue.redis, queue.settings.limits).close_many(endings)
    publish_promoted(queue.backend.app, [id for each in closed for id in each.promoted])
    full = QueueFull("the lane holds as many open jobs as it may (VQA_QUEUE_MOST)")
    return {id: full for id, verdict in verdicts.items() if verdict == "full"}


def _ending(queue: JobQueue, job: Job, model: str) -> Ending:
    answer = echo(job, model)
    return Ending(job.id, "", encode(queue.backend, job.id, answer), queue.settings.result_ttl_s, tally=tally(answer))


def echo(job: Job, model: str) -> Answer:
    """Return the answer of a test model: the text of the last message, at most `max_new_tokens` words of it."""
    text = "".join(_texts(job))
    words = text.split()
    cut = len(words) > job.max_new_tokens
    return Answer(
        id=job.id,
        text=" ".join(words[: job.max_new_tokens]) if cut else text,
        finish_reason="length" if cut else "stop",
        usage=Usage(prompt_tokens=len(words), completion_tokens=min(len(words), job.max_new_tokens)),
        timings=Timings(queued_s=0, media_s=0, engine_s=0, total_s=0),
        model=model,
        worker=_WORKER,
        attempt=1,
    )


def _texts(job: Job) -> Iterable[str]:
    return (part.text for part in job.messages[-1].content if isinstance(part, TextPart))
