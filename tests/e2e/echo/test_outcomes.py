"""How jobs of our client and of other Celery apps end: answers, errors and retries, of one worker that echoes."""

import inspect
import time
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from producer import Client
from vqa import (
    Answer,
    Cancelled,
    DeadlineExceeded,
    InvalidJob,
    Job,
    JobGivenUp,
    PermanentError,
    UnsupportedVersion,
    VQAError,
    errors,
)
from vqa.ledger.commands import dead_key

OUTCOMES = [
    error
    for _, error in inspect.getmembers(errors, inspect.isclass)
    if issubclass(error, PermanentError) and error not in {PermanentError, Cancelled}
]
WAIT_S = 60.0


def job(**fields: Any) -> Job:
    return Job(messages=[{"role": "user", "content": "What is it?"}], **fields)


def failing(name: str, **fields: Any) -> Job:
    attempts = {"echo_fail_attempts": str(fields.pop("attempts"))} if "attempts" in fields else {}
    return job(metadata={"echo_fail": name, **attempts}, **fields)


def test_every_permanent_error_comes_back_as_itself(client: Client) -> None:
    ids = client.submit_many(failing(error.__name__, lane="bulk") for error in OUTCOMES)
    outcomes = dict(client.answers(ids, timeout_s=WAIT_S))
    assert [type(outcomes[id]) for id in ids] == OUTCOMES


def test_a_transient_error_is_retried_until_it_succeeds(client: Client) -> None:
    retry = {"attempts": 5, "base_s": 0.01}
    id = client.submit(failing("EngineError", attempts=2, retry=retry))
    answer = client.answer(id, timeout_s=WAIT_S)
    assert answer.attempt == 3
    assert answer.last_error is not None
    assert answer.last_error.startswith("EngineError: ")


def test_a_job_is_given_up_when_its_attempts_are_used_up(client: Client, redis: Redis) -> None:
    id = client.submit(failing("EngineError", retry={"attempts": 2, "base_s": 0.01}))
    with pytest.raises(JobGivenUp, match="attempts_used_up") as caught:
        client.answer(id, timeout_s=WAIT_S)
    assert caught.value.attempts == 2
    assert caught.value.last_error is not None
    assert caught.value.last_error.startswith("EngineError: ")
    assert redis.exists(dead_key(id))


def test_a_permanent_error_is_not_retried(client: Client) -> None:
    with pytest.raises(errors.BadImage) as caught:
        client.answer(client.submit(failing("BadImage", retry={"attempts": 5})), timeout_s=WAIT_S)
    assert caught.value.attempts == 1


def test_a_deadline_ends_a_job_that_is_being_answered(client: Client) -> None:
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        client.answer(client.submit(job(timeout_s=1, metadata={"echo_delay_s": "60"})), timeout_s=WAIT_S)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("queue", ["interactive", "bulk", None])
def test_a_job_that_another_celery_app_sends_is_accepted(other_app: Celery, queue: str | None) -> None:
    sent = {"messages": [{"role": "user", "content": "What is it?"}]}
    result = other_app.send_task("vqa.answer", [sent], queue=queue)
    answer = Answer.model_validate(result.get(timeout=WAIT_S))
    assert (answer.id, answer.attempt) == (result.id, 1)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([{"version": 99}], "UnsupportedVersion"),
        ([{"question": "misspelt"}], "InvalidJob"),
        (["not a job"], "InvalidJob"),
        ([None], "InvalidJob"),
        (["[" * 100_000], "InvalidJob"),
        ([[1, 2, 3]], "InvalidJob"),
        ([{"messages": [{"role": "user", "content": [{"type": "image", "image": "file:///x.png"}]}]}], "InvalidJob"),
    ],
)
def test_a_foreign_message_that_is_no_job_gets_a_named_error(
    client: Client, other_app: Celery, arguments: list[object], named: str
) -> None:
    result = other_app.send_task("vqa.answer", arguments, queue="interactive")
    with pytest.raises(VQAError) as caught:
        client_answer(client, result.id)
    assert type(caught.value).__name__ == named
    assert isinstance(caught.value, InvalidJob | UnsupportedVersion)


def test_a_job_spread_over_keyword_arguments_is_accepted(other_app: Celery) -> None:
    fields = {"messages": [{"role": "user", "content": "What is it?"}]}
    assert other_app.send_task("vqa.answer", kwargs=fields, queue="bulk").get(timeout=WAIT_S)["text"]


def client_answer(client: Client, id: str) -> Answer:
    until = time.monotonic() + WAIT_S
    while True:
        try:
            return client.answer(id, timeout_s=1)
        except (errors.UnknownJob, errors.AnswerTimeout):
            # unknown until a worker has accepted it
            assert time.monotonic() < until
