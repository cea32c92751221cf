"""The caller of a request, as a parameter of endpoints."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from producer.gateway.access.caller import Caller

#: of a router: `APIRouter(dependencies=[BEARER])`. It only tells the OpenAPI document how a key is sent: `AccessGate`
#: has read it before the body was
BEARER = Security(HTTPBearer(auto_error=False, description="an API key, from `vqa keys create`"))


# async, or FastAPI would call it in a thread
async def _caller(request: Request) -> Caller:
    # an AttributeError, thus 500, where no gate stands before the endpoint
    return cast(Caller, request.state.caller)


#: a parameter of every endpoint under /v1
CallerDep = Annotated[Caller, Depends(_caller)]
