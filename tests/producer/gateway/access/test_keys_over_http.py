"""Who is let in: over real HTTP, on two gateway processes."""

import socket
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import httpx2
import pytest

from producer.gateway.access.api_key import new_api_key
from producer.gateway.access.keys import Keys
from tests.producer.gateway.access.conftest import Holder, MakeHolder
from tests.producer.gateway.gateway_process import GatewayProcess

#: seconds within which a revocation holds on every gateway
REVOKED_S = 2.0


def refusal(reply: httpx2.Response) -> str:
    """Return the message of a 401 after checking the rest of it."""
    assert reply.status_code == 401
    assert reply.headers["WWW-Authenticate"].startswith("Bearer ")
    error = reply.json()["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert not [name for name in reply.headers if name.startswith("x-ratelimit")]
    return str(error["message"])


def with_key(gateway: GatewayProcess, key: str) -> httpx2.Response:
    return httpx2.get(f"{gateway.url}/v1/models", headers={"Authorization": f"Bearer {key}"})


def test_no_endpoint_under_v1_answers_without_a_key(gateways: list[GatewayProcess]) -> None:
    url = gateways[0].url
    endpoints = [
        (method, path)
        for path, methods in httpx2.get(f"{url}/openapi.json").json()["paths"].items()
        for method in methods
        if path.startswith("/v1/")
    ]
    assert len(endpoints) > 10
    with httpx2.Client(base_url=url) as nobody:
        for method, path in [*endpoints, ("get", "/v1/none"), ("put", "/v1/models")]:
            refusal(nobody.request(method.upper(), path.replace("{", "").replace("}", "")))


def test_health_needs_no_key(gateways: list[GatewayProcess]) -> None:
    assert httpx2.get(f"{gateways[0].url}/healthz").status_code == 200
    assert httpx2.get(f"{gateways[0].url}/readyz").status_code == 200


@pytest.mark.parametrize("name", ["Authorization", "api-key", "x-api-key"])
def test_a_key_is_read_from_the_headers_that_clients_send(
    gateways: list[GatewayProcess], holder: MakeHolder, name: str
) -> None:
    key = holder().key
    value = f"bearer  {key}" if name == "Authorization" else key
    assert httpx2.get(f"{gateways[0].url}/v1/models", headers={name: value}).status_code == 200


def test_unknown_expired_and_revoked_keys_are_refused_alike(
    gateways: list[GatewayProcess], holder: MakeHolder, keys: Keys
) -> None:
    revoked = holder()
    keys.revoke(revoked.record.id)
    past = datetime.now(UTC) - timedelta(seconds=1)
    said = {refusal(with_key(gateways[0], key)) for key in (new_api_key(), revoked.key, holder(expires=past).key)}
    assert len(said) == 1


@pytest.mark.parametrize("sent", ["vqa_short", "sk-proj-0123456789", "vqa_" + "0" * 36, "é" * 40, "x" * 5000])
def test_what_is_no_key_at_all_is_told_so(gateways: list[GatewayProcess], sent: str) -> None:
    reply = httpx2.get(f"{gateways[0].url}/v1/models", headers={"Authorization": f"Bearer {sent}".encode()})
    assert "mistyped" in refusal(reply)
    assert sent not in reply.text


def test_a_key_ends_when_it_expires(gateways: list[GatewayProcess], holder: MakeHolder) -> None:
    short = holder(expires=datetime.now(UTC) + timedelta(seconds=4))
    until = time.monotonic() + 4 + REVOKED_S
    assert short.get("/v1/models").status_code == 200
    asked = 0.0
    while (reply := short.get("/v1/models")).status_code == 200:
        assert asked < until
        time.sleep(0.05)
        asked = time.monotonic()
    refusal(reply)


def test_a_revocation_holds_on_every_gateway_within_two_seconds(
    gateways: list[GatewayProcess], holder: MakeHolder, keys: Keys
) -> None:
    key = holder()
    assert [with_key(gateway, key.key).status_code for gateway in gateways] == [200, 200]
    keys.revoke(key.record.id)
    until = time.monotonic() + REVOKED_S
    # used all the time, so that it stays in both caches
    while {with_key(gateway, key.key).status_code for gateway in gateways} != {401} and time.monotonic() < until:
        pass
    # a reply may take its time, and is good for when it was asked for
    assert {with_key(gateway, key.key).status_code for gateway in gateways} == {401}


def test_a_key_without_the_lane_is_refused(holder: MakeHolder) -> None:
    bulk = holder(lanes=("bulk",))
    refused = bulk.ask()
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "lane_not_allowed")
    assert bulk.ask(vqa={"lane": "bulk"}).status_code == 200


def test_the_body_of_a_stranger_is_not_waited_for(gateways: list[GatewayProcess]) -> None:
    address = urlsplit(gateways[0].url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
            b"Content-Length: 10000000\r\n\r\n"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


def test_the_access_log_names_the_key_by_its_id(gateways: list[GatewayProcess], holder: MakeHolder) -> None:
    caller: Holder = holder()
    reply = caller.get("/v1/models")
    assert gateways[0].wait_logged(reply.headers["X-Request-ID"])["key_id"] == caller.record.id
