"""The models that workers serve, as OpenAI lists them."""

from __future__ import annotations

import time
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from producer.gateway.access.auth import BEARER, CallerDep
from producer.gateway.chat.echo_models import TEST_MODELS
from producer.gateway.context import Context, ContextDep
from producer.gateway.errors import NotFound
from producer.gateway.openapi.error_schema import error_responses

router = APIRouter(dependencies=[BEARER], tags=["models"])

#: OpenAI's field, which clients require; when a model was made is not known here
_CREATED = int(time.time())


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = Field(default=_CREATED, description="when this gateway started, in seconds since 1970")
    owned_by: str = "vqa"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


@router.get("/v1/models", summary="List the models that requests may name", responses=error_responses())
async def list_models(context: ContextDep, caller: CallerDep) -> ModelList:
    """Return each model once, however many workers have it: what ready workers have loaded, or the names given to them.

    A name that was given to a worker stays for a while after its last worker has ended, as requests wait for the next.
    """
    return ModelList(data=[Model(id=name) for name in await _names(context)])


# a model's name may have slashes
@router.get("/v1/models/{model:path}", summary="Look up one model", responses=error_responses(404))
async def retrieve_model(model: str, context: ContextDep, caller: CallerDep) -> Model:
    if model not in await _names(context):
        raise NotFound("no worker serves this model", param="model", code="model_not_found")
    return Model(id=model)


async def _names(context: Context) -> list[str]:
    """Raises QueueUnavailable."""
    return [*await context.readiness.models(), *(TEST_MODELS if context.settings.test_models else ())]
