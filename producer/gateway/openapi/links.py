"""Links of the OpenAPI document: the operations that take the id in a response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from producer.gateway.http import headers

_ID = "$response.body#/id"
#: a stream and an answer in plain text have it only here
_JOB_ID = f"$response.header.{headers.JOB_ID}"


def _links(parameter: str, *operations: str, id: str = _ID) -> dict[str, Any]:
    return {operation: {"operationId": operation, "parameters": {parameter: id}} for operation in operations}


_JOB = _links("job_id", "retrieve_job", "cancel_job", id=_JOB_ID)
_INPUT = {
    "operationId": "create_batch",
    "requestBody": {"input_file_id": _ID, "endpoint": "/v1/chat/completions", "completion_window": "24h"},
}
_OUTPUT = {"operationId": "read_file", "parameters": {"file_id": "$response.body#/output_file_id"}}

#: by operation and status
LINKS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "create_chat_completion": {"200": _JOB, "202": _JOB},
    "ask": {"200": _JOB, "202": _JOB},
    "store_image": {"200": _links("image_id", "retrieve_image", "delete_image")},
    "upload_file": {"200": {**_links("file_id", "retrieve_file", "read_file", "delete_file"), "create_batch": _INPUT}},
    "create_batch": {"200": {**_links("batch_id", "retrieve_batch", "cancel_batch"), "read_output": _OUTPUT}},
}
