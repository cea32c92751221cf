"""The caller of a request, as a parameter of endpoints."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Request, Security
from fastapi.security import HTTPBearer

from producer.gateway.access.caller import Caller

#: only tells the OpenAPI document how a key is sent; `AccessGate` has read it before the body was
_BEARER = HTTPBearer(auto_error=False, description="an API key: `vqa keys create --name NAME`")


def _caller(request: Request) -> Caller:
    return cast(Caller, getattr(request.state, "caller", None) or Caller())


#: a parameter of every endpoint under /v1
CallerDep = Annotated[Caller, Security(_caller)]
#: of a router: `APIRouter(dependencies=[BEARER])`
BEARER = Security(_BEARER)
