"""What the OpenAPI document says of each endpoint, tried: its examples, and the errors that it declares."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from jsonschema_rs import validator_for

from producer.gateway.access.caller import Allowance
from producer.gateway.chat.request_schema import EXAMPLE_IMAGE
from producer.ids import new_id
from tests.clients.site import Site, open_site
from vqa.jobs.lane import LANES, Lane

#: of the gateway
BODY_BYTES = 2**20


@dataclass(frozen=True)
class Operation:
    """One endpoint."""

    method: str
    path: str
    about: Mapping[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        return str(self.about["operationId"])

    @property
    def media_types(self) -> list[str]:
        return list(self.about.get("requestBody", {}).get("content", {}))

    def declares(self, status: int) -> bool:
        return str(status) in self.about["responses"]

    def url(self, id: str = "none") -> str:
        return "/".join(id if part.startswith("{") else part for part in self.path.split("/"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    small = {"VQA_GATEWAY_BODY_MAX_BYTES": str(BODY_BYTES), "VQA_FILES_MAX_BYTES": "1000", "VQA_REDIS_TIMEOUT_S": "1"}
    with open_site(tmp_path_factory.mktemp("site"), small) as site:
        yield site


@pytest.fixture(scope="module")
def document(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = httpx2.get(f"{site.gateway.url}/openapi.json").json()
    return found


@pytest.fixture(scope="module")
def operations(document: dict[str, Any]) -> list[Operation]:
    """Those that need a key."""
    return [
        Operation(method.upper(), path, about)
        for path, methods in document["paths"].items()
        for method, about in methods.items()
        if path.startswith("/v1/")
    ]


class Sender:
    """Sends requests to the gateway with a key; errors must have the declared shape."""

    def __init__(self, http: httpx2.Client, document: dict[str, Any], key: str) -> None:
        self._http = http
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._document = document

    def send(self, operation: Operation, url: str | None = None, **options: Any) -> int:
        """Return the status."""
        headers = self.headers | options.pop("headers", {})
        reply = self._http.request(operation.method, url or operation.url(), headers=headers, **options)
        return self.check(operation, reply)

    def check(self, operation: Operation, reply: httpx2.Response) -> int:
        declared = operation.about["responses"].get(str(reply.status_code))
        assert declared, f"{operation} answers {reply.status_code}: {reply.text}"
        if reply.status_code >= 400:
            schema = declared["content"]["application/json"]["schema"]
            validator = validator_for(schema | {"components": self._document["components"]})
            assert validator.is_valid(reply.json()), reply.text
            assert ("retry-after" in reply.headers) == (reply.status_code in (429, 503))
        return reply.status_code


#: `sender(requests_per_minute=1)` has a key of its own with these limits
MakeSender = Callable[..., Sender]


@pytest.fixture(scope="module")
def sender(site: Site, document: dict[str, Any]) -> Iterator[MakeSender]:
    with httpx2.Client(base_url=site.gateway.url, timeout=60) as http:

        def make(key: str | None = None, lanes: tuple[Lane, ...] = LANES, **limits: int) -> Sender:
            if key is None:
                key, _ = site.keys.create("test", lanes=lanes, allowance=Allowance(**limits))
            return Sender(http, document, key)

        yield make


def names(operations: list[Operation], status: int) -> set[str]:
    return {each.name for each in operations if each.declares(status)}


def test_every_endpoint_declares_that_it_needs_a_key(sender: MakeSender, operations: list[Operation]) -> None:
    for key in ("", "vqa_wrong"):
        anybody = sender(key)
        assert {anybody.send(each) for each in operations} == {401}


def test_unknown_ids_are_declared(sender: MakeSender, operations: list[Operation]) -> None:
    caller = sender()
    found = {each.name for each in operations if "{" in each.path and caller.send(each) == 404}
    for prefix in ("chatcmpl", "img", "file", "batch"):
        others = new_id(prefix, "somebody else")
        assert {caller.send(each, each.url(others)) for each in operations if "{" in each.path} == {404}
    batch = {"input_file_id": "file_none", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    [create] = [each for each in operations if each.name == "create_batch"]
    assert caller.send(create, json=batch) == 404
    # a job that was asked for by its key may be forgotten while its state is read
    assert found | {create.name} == names(operations, 404) - {"create_chat_completion", "ask"}


def test_bodies_that_are_nothing_are_declared(sender: MakeSender, operations: list[Operation]) -> None:
    caller = sender()
    for each in operations:
        for kind in each.media_types:
            sent = kind.replace("*", "png")
            for content in (b"", b"{", b"null", b"\xff" * 100, b"--x\r\n"):
                assert caller.send(each, content=content, headers={"Content-Type": sent}) == 400, (each, kind)


def test_other_content_types_are_declared(sender: MakeSender, operations: list[Operation]) -> None:
    caller = sender()
    text = {"Content-Type": "text/plain"}
    with_body = [each for each in operations if each.media_types]
    found = {each.name for each in with_body if caller.send(each, content=b"{}", headers=text) == 415}
    assert found == names(operations, 415)


def test_bodies_that_are_too_large_are_declared(sender: MakeSender, operations: list[Operation]) -> None:
    caller = sender()
    content = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + bytes(BODY_BYTES)
    with_body = [each for each in operations if each.media_types]
    kinds = {each.name: each.media_types[0].replace("form-data", "form-data; boundary=b") for each in with_body}
    found = {
        each.name
        for each in with_body
        if caller.send(each, content=content, headers={"Content-Type": kinds[each.name]}) == 413
    }
    assert found == names(operations, 413) == names(operations, 408)


def test_a_limit_that_is_used_up_is_declared(sender: MakeSender, operations: list[Operation]) -> None:
    caller = sender(requests_per_minute=1)
    [first] = [each for each in operations if each.name == "create_chat_completion"]
    assert caller.send(first, json={}) == 400
    assert {each.name for each in operations if caller.send(each) == 429} == names(operations, 429)


def test_a_lane_that_is_not_allowed_is_declared(sender: MakeSender, operations: list[Operation]) -> None:
    caller = sender(lanes=("interactive",))
    bodies: dict[str, Any] = {
        "create_chat_completion": {"messages": [{"role": "user", "content": "?"}], "vqa": {"lane": "bulk"}},
        "ask": {"question": "?", "lane": "bulk", "image": EXAMPLE_IMAGE},
        "create_batch": {"input_file_id": "x", "endpoint": "/v1/chat/completions", "completion_window": "24h"},
    }
    asked = [each for each in operations if each.name in bodies]
    found = {each.name for each in asked if caller.send(each, json=bodies[each.name]) == 403}
    assert found == bodies.keys()


def examples(operation: Operation) -> Iterator[tuple[str, Any]]:
    """Whole bodies."""
    for kind, media in operation.about.get("requestBody", {}).get("content", {}).items():
        for holder in (media, media["schema"]):
            if "example" in holder:
                yield kind, holder["example"]


def test_examples_of_bodies_work_as_they_are(sender: MakeSender, operations: list[Operation]) -> None:
    caller = sender()
    tried = [(each.name, caller.send(each, json=body)) for each in operations for _, body in examples(each)]
    assert tried == [("create_chat_completion", 200), ("ask", 200), ("store_image", 200)]


def schemas(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in the document that has examples."""
    if isinstance(value, dict):
        if isinstance(value.get("examples"), list):
            yield value
        for each in value.values():
            yield from schemas(each)
    elif isinstance(value, list):
        for each in value:
            yield from schemas(each)


def test_examples_of_values_are_valid(document: dict[str, Any]) -> None:
    found = list(schemas(document))
    assert len(found) > 5
    for schema in found:
        validator = validator_for(schema | {"components": document["components"]})
        assert all(map(validator.is_valid, schema["examples"])), schema


def test_links_name_endpoints_and_their_parameters(document: dict[str, Any], operations: list[Operation]) -> None:
    by_name = {each.name: each for each in operations}
    assert len(by_name) == len(operations)
    links = [
        link
        for each in operations
        for reply in each.about["responses"].values()
        for link in reply.get("links", {}).values()
    ]
    assert len(links) > 10
    for link in links:
        target = by_name[link["operationId"]].about
        known = {each["name"] for each in target.get("parameters", [])}
        assert link.get("parameters", {}).keys() <= known
        assert "parameters" in link or "requestBody" in target


# the last: the site has no Redis afterwards
def test_a_redis_that_is_away_is_declared(site: Site, sender: MakeSender, operations: list[Operation]) -> None:
    caller = sender()

    async def send_all() -> list[int]:
        async with httpx2.AsyncClient(base_url=site.gateway.url, headers=caller.headers, timeout=60) as http:
            replies = await asyncio.gather(*(http.request(each.method, each.url()) for each in operations))
        return [caller.check(each, reply) for each, reply in zip(operations, replies, strict=True)]

    site.server.kill()
    assert set(asyncio.run(send_all())) == {503}
    assert names(operations, 401) == names(operations, 403) == names(operations, 503) == names(operations, 200)
