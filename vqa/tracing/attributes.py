"""Names of spans' attributes, and their values for a job: nothing that a user has written.

Names are those of OpenTelemetry's semantic conventions for GenAI and for messaging; `vqa.*` are our own. A test
compares them with the package of the conventions.
"""

from __future__ import annotations

from typing import Literal

from vqa.answer import Answer
from vqa.errors import VQAError

ATTEMPT, BATCH, WORKER, TENANT = "vqa.attempt", "vqa.batch.id", "vqa.worker", "vqa.tenant"
#: whether the answer was another job's
REUSED = "vqa.reused"
#: how an attempt ended: answered, failed, retried, dead_letter, cancelled, returned, lost
OUTCOME = "vqa.outcome"
#: what the ledger said of a job that was sent: accepted, waiting, open (it was known already), closed, full, over
VERDICT = "vqa.verdict"

#: of an event: its id, the same in all attempts to deliver it, and its type, as `batch.completed`
WEBHOOK_EVENT, WEBHOOK_TYPE = "vqa.webhook.event", "vqa.webhook.type"

ERROR_TYPE = "error.type"

MESSAGING_SYSTEM = "messaging.system"
MESSAGING_DESTINATION = "messaging.destination.name"
MESSAGING_ID = "messaging.message.id"
MESSAGING_OPERATION, MESSAGING_OPERATION_TYPE = "messaging.operation.name", "messaging.operation.type"

GEN_AI_OPERATION, GEN_AI_PROVIDER, GEN_AI_OUTPUT = (
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.output.type",
)
GEN_AI_REQUEST_MODEL, GEN_AI_RESPONSE_MODEL = "gen_ai.request.model", "gen_ai.response.model"
GEN_AI_RESPONSE_ID = "gen_ai.response.id"
GEN_AI_FINISH_REASONS = "gen_ai.response.finish_reasons"
GEN_AI_INPUT_TOKENS, GEN_AI_OUTPUT_TOKENS = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
GEN_AI_CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"

HTTP_METHOD, HTTP_ROUTE, HTTP_STATUS = "http.request.method", "http.route", "http.response.status_code"
SERVER_ADDRESS = "server.address"

#: the conventions know no Celery; a name of one's own is allowed
SYSTEM = "celery"
PROVIDER = "vqa"
#: the conventions' operation of answering a chat
CHAT = "chat"

Value = str | int | float | bool | list[str]
Operation = Literal["send", "receive", "process", "settle"]


def message(operation: Operation, job_id: str, lane: str) -> dict[str, Value]:
    """Return the attributes of a span about a job on its way through the queue."""
    return {
        MESSAGING_SYSTEM: SYSTEM,
        MESSAGING_DESTINATION: lane,
        MESSAGING_ID: job_id,
        MESSAGING_OPERATION: operation,
        MESSAGING_OPERATION_TYPE: operation,
    }


def chat(model: str) -> dict[str, Value]:
    """Return what is known of a chat before its answer."""
    return {GEN_AI_OPERATION: CHAT, GEN_AI_PROVIDER: PROVIDER, GEN_AI_REQUEST_MODEL: model}


def answered(answer: Answer) -> dict[str, Value]:
    """Return what an answer says without its text."""
    usage = answer.usage
    reasons = [answer.finish_reason, *(each.finish_reason for each in answer.alternatives)]
    return {
        GEN_AI_RESPONSE_MODEL: answer.model,
        GEN_AI_RESPONSE_ID: answer.id,
        GEN_AI_FINISH_REASONS: list(reasons),
        GEN_AI_INPUT_TOKENS: usage.prompt_tokens,
        GEN_AI_OUTPUT_TOKENS: usage.completion_tokens,
        GEN_AI_CACHED_TOKENS: usage.cached_tokens,
    }


def code_of(error: BaseException) -> str:
    """Return the error's code, or its class if it is no error of ours; a text of it might quote something."""
    return error.code() if isinstance(error, VQAError) else type(error).__name__
