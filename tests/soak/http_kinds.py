"""The load's requests to the gateway."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx2

from tests.chaos.jobs import make_case
from tests.soak.tally import LATE, Tally
from vqa.errors import QueueUnavailable

BATCH_ROWS = 100
_TIMEOUT_S = 180.0
#: past its deadline, too many at once, or Redis did not answer in time: said so, hence not lost
_NAMED = (408, 429, 503)
_URL = "/v1/chat/completions"


class HttpKinds:
    """The kinds of requests; any thread may make them."""

    def __init__(self, http: httpx2.Client, tally: Tally) -> None:
        self._http = http
        self._tally = tally

    def chat(self) -> None:
        id, body, expect = _question("chat")
        reply = self._http.post(_URL, json=body, headers={"Idempotency-Key": id})
        self._judge("chat", id, reply.json()["choices"][0]["message"]["content"] if _right(reply) else reply, expect)

    def stream(self) -> None:
        id, body, expect = _question("http-stream")
        text, over = "", False
        with self._http.stream("POST", _URL, json=body | {"stream": True}) as reply:
            for line in reply.iter_lines():
                over = over or line == "data: [DONE]"
                if line.startswith("data: {"):
                    choices = json.loads(line.removeprefix("data: ")).get("choices", ())
                    text += "".join(choice["delta"].get("content") or "" for choice in choices)
        self._judge("http-stream", id, text if over else reply, expect)

    def respond_async(self) -> None:
        id, body, expect = _question("async")
        reply = self._http.post(_URL, json=body, headers={"Prefer": "respond-async"})
        _content(reply)
        until, state = time.monotonic() + _TIMEOUT_S, dict[str, Any](status="queued")
        while state.get("status") in ("queued", "running", "delayed") and time.monotonic() < until:
            state = _content(self._http.get(reply.headers["Location"], params={"wait": 30}))
        choices = (state.get("completion") or {}).get("choices")
        found = choices[0]["message"]["content"] if choices else f"status {state.get('status')}"
        self._judge("async", id, found, expect)

    def leave(self) -> None:
        """Leave a stream at its first line, as a user who closes a page does."""
        _, body, _ = _question("leave")
        with self._http.stream("POST", _URL, json=body | {"stream": True}) as reply:
            next(reply.iter_lines(), None)
        self._tally.end("leave", "left")

    def batch(self) -> None:
        questions = [_question("row") for _ in range(BATCH_ROWS)]
        lines = (
            json.dumps({"custom_id": id, "method": "POST", "url": _URL, "body": body}) for id, body, _ in questions
        )
        content = "\n".join(lines).encode()
        uploaded = self._http.post("/v1/files", files={"file": ("rows.jsonl", content)}, data={"purpose": "batch"})
        file = _content(uploaded)["id"]
        body = {"input_file_id": file, "endpoint": _URL, "completion_window": "3m"}
        batch, until = _content(self._http.post("/v1/batches", json=body)), time.monotonic() + _TIMEOUT_S
        while batch["status"] not in ("completed", "failed", "expired", "cancelled") and time.monotonic() < until:
            time.sleep(1)
            batch = _content(self._http.get(f"/v1/batches/{batch['id']}"))
        found = dict[str, str]()
        if batch.get("output_file_id"):
            output = self._http.get(f"/v1/files/{batch['output_file_id']}/content").text
            for row in map(json.loads, output.splitlines()):
                found[row["custom_id"]] = row["response"]["body"]["choices"][0]["message"]["content"]
            self._http.delete(f"/v1/files/{batch['output_file_id']}")
        self._http.delete(f"/v1/files/{file}")
        for id, _, expect in questions:
            self._judge("row", id, found.get(id, f"no row; the batch is {batch['status']}"), expect)

    def _judge(self, kind: str, id: str, found: str | httpx2.Response, expect: str) -> None:
        if found == expect:
            self._tally.end(kind, "Answer")
        elif isinstance(found, str) and found.startswith("echo:"):
            self._tally.fault("wrong", f"{id} has another job's answer, or a part of its own")
        elif isinstance(found, httpx2.Response) and found.status_code in _NAMED:
            self._tally.end(kind, LATE)
        else:
            self._tally.fault("lost", f"{id}: {found if isinstance(found, str) else found.status_code}")


def _question(kind: str) -> tuple[str, dict[str, Any], str]:
    """Return a unique id, the request's body and the expected answer."""
    case = make_case(f"{kind}-{uuid.uuid4().hex}", kind, 0)
    body = {"model": "echo", "messages": [{"role": "user", "content": f"What is {case.job.id}?"}]}
    return case.job.id, body, case.expect


def _content(reply: httpx2.Response) -> dict[str, Any]:
    """Return the body. Raises QueueUnavailable for a refusal."""
    if reply.status_code in _NAMED:
        raise QueueUnavailable(f"the gateway answered {reply.status_code}")
    body: dict[str, Any] = reply.json()
    return body


def _right(reply: httpx2.Response) -> bool:
    return reply.status_code == 200


#: requests a second
def rates(kinds: HttpKinds) -> dict[Callable[[], None], float]:
    return {
        kinds.chat: 2,
        kinds.stream: 0.5,
        kinds.respond_async: 0.3,
        kinds.leave: 0.1,
        kinds.batch: 1 / 120,
    }
