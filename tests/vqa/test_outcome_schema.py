"""Every outcome that is written is valid by the schema that programs in other languages read."""

import json
from typing import cast

import pytest
from celery import Celery
from jsonschema_rs import validator_for
from redis import Redis

from vqa import errors
from vqa.answer import Answer, SeenImage, Timings, Usage
from vqa.errors import InvalidJob, VQAError
from vqa.ledger.commands import entry_key, outcome_key
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import AttemptRecord, Header
from vqa.outcome_schema import outcome_schema
from vqa.results import Outcome, encode, trace_of

ANSWER = Answer(
    id="job",
    text="red",
    parsed={"colour": ["red", None]},
    finish_reason="stop",
    usage=Usage(prompt_tokens=1, completion_tokens=2),
    timings=Timings(queued_s=0, media_s=0.5, engine_s=1, total_s=1.5),
    images=(SeenImage(source_width=2, source_height=2),),
    model="m",
    worker="card0@host",
    attempt=1,
)

TRACE, OTHER = f"00-{'a' * 32}-{'b' * 16}-01", f"00-{'c' * 32}-{'d' * 16}-01"

#: errors that jobs end with
ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, VQAError)]


@pytest.mark.parametrize(
    "outcome", [ANSWER, *(kind("why") for kind in ERRORS)], ids=lambda outcome: type(outcome).__name__
)
def test_outcomes_are_valid(app: Celery, outcome: Outcome) -> None:
    past = AttemptRecord(1, "worker", 5, 6, "WorkerLost: why")
    header = Header("leased", "bulk", 1, 9, 2, 1, worker="worker", taken=7, history=(past,) * 20)
    told = {"trace": TRACE, "times": header.times()}
    written = json.loads(encode(app.backend, "job", outcome, 3, "EngineError: why", **told))
    validator_for(outcome_schema()).validate(written)
    assert len(written["times"]["attempts"]) == 5


@pytest.mark.parametrize("trace", [TRACE, None], ids=["traced", "not-traced"])
def test_the_trace_is_found_without_reading_the_outcome(app: Celery, trace: str | None) -> None:
    # what an answer says cannot be taken for it
    outcome = ANSWER.model_copy(update={"text": '{"task_id": "x", "trace": "' + OTHER, "parsed": {"trace": OTHER}})
    assert trace_of(encode(app.backend, "job", outcome, trace=trace)) == trace


def test_the_outcome_of_a_damaged_entry_is_valid(redis: Redis) -> None:
    redis.set(entry_key("job"), "no entry")
    assert Ledger(redis).take("job", "worker", "token", 9) == "closed"
    validator_for(outcome_schema()).validate(json.loads(cast(bytes, redis.get(outcome_key("job")))))


def test_other_json_is_not(app: Celery) -> None:
    schema = validator_for(outcome_schema())
    failed = json.loads(encode(app.backend, "job", InvalidJob("why")))
    assert not schema.is_valid(failed | {"status": "SUCCESS"})
    assert not schema.is_valid(failed | {"result": "why"})
    assert not schema.is_valid({})
