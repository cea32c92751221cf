"""Headers, errors and the access log of any request."""

import asyncio
import json
import re

import httpx2
import pytest

from producer.gateway.app import create_app
from tests.producer.gateway.conftest import Asgi
from tests.producer.gateway.gateway_process import GatewayProcess
from vqa.gateway_settings import FilesSettings, GatewaySettings
from vqa.settings import QueueSettings

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def error_of(reply: httpx2.Response) -> dict[str, object]:
    error = reply.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    return dict(error)


def test_a_request_id_is_made_or_kept(http: httpx2.Client) -> None:
    made = {http.get("/healthz").headers["X-Request-ID"] for _ in range(3)}
    assert len(made) == 3
    assert http.get("/healthz", headers={"X-Request-ID": "order-17"}).headers["X-Request-ID"] == "order-17"
    given = http.get("/healthz", headers={"X-Request-ID": "a cat {}" * 40}).headers["X-Request-ID"]
    assert re.fullmatch(r"req_[0-9a-f]{24}", given)


def test_a_request_is_one_line_without_words_of_the_user(http: httpx2.Client, gateway: GatewayProcess) -> None:
    reply = http.get("/v1/jobs/secret-id?what=secret", headers={"traceparent": TRACE, "user-agent": "secret"})
    line = gateway.wait_logged(reply.headers["X-Request-ID"])
    assert "secret" not in json.dumps(line)
    assert line["route"] == "/v1/jobs/{job_id}"
    assert (line["method"], line["status"], line["trace"]) == ("GET", 404, TRACE.split("-")[1])
    assert (line["bytes_in"], line["bytes_out"], line["key_id"]) == (0, len(reply.content), None)
    assert line["duration_ms"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])


def test_a_line_of_no_route_does_not_show_the_path(http: httpx2.Client, gateway: GatewayProcess) -> None:
    line = gateway.wait_logged(http.get("/secret/secret").headers["X-Request-ID"])
    assert "secret" not in json.dumps(line)


def test_responses_tell_browsers_what_not_to_do(http: httpx2.Client) -> None:
    for path in ("/healthz", "/nowhere", "/"):
        headers = http.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "server" not in headers
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(("origin", "allowed"), [("https://b.example", True), ("https://c.example", False)])
def test_origins_that_are_named_may_call(asgi: Asgi, origin: str, allowed: bool) -> None:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}

    async def ask() -> list[httpx2.Response]:
        async with asgi(cors_origins="https://a.example, https://b.example/") as http:
            before = await http.options("/v1/chat/completions", headers=headers)
            return [before, await http.get("/nowhere", headers=headers)]

    for reply in asyncio.run(ask()):
        assert reply.headers.get("access-control-allow-origin") == (origin if allowed else None)
        assert "access-control-allow-credentials" not in reply.headers


def test_errors_of_http_have_the_shape_of_openais(http: httpx2.Client) -> None:
    reply = http.get("/nowhere")
    assert (reply.status_code, error_of(reply)["code"]) == (404, "not_found")
    reply = http.put("/healthz")
    assert (reply.status_code, error_of(reply)["code"], reply.headers["allow"]) == (405, "method_not_allowed", "GET")
    assert http.put("/v1/jobs/any").headers["allow"] == "GET, DELETE"


@pytest.mark.parametrize("path", ["/v1/files/", "/docs/", "//v1/files"])
def test_nobody_is_sent_elsewhere(http: httpx2.Client, path: str) -> None:
    reply = http.get(path)
    assert (reply.status_code, reply.headers.get("location")) == (404, None)


def test_a_mistake_of_ours_is_500_with_one_traceback_and_no_detail(
    queue_settings: QueueSettings, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(queue_settings, GatewaySettings(), FilesSettings())

    @app.get("/broken")
    def broken() -> None:
        raise KeyError("an internal detail")

    async def ask() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway") as http:
            return await http.get("/broken", headers={"X-Request-ID": "this-one"})

    reply = asyncio.run(ask())
    assert (reply.status_code, error_of(reply)["code"]) == (500, "internal_error")
    assert "an internal detail" not in reply.text
    [record] = [record for record in caplog.records if record.exc_info]
    assert "this-one" in record.getMessage()


def test_openapi_is_served_and_nothing_from_elsewhere(http: httpx2.Client) -> None:
    assert http.get("/openapi.json").json()["info"]["title"] == "vqa-queue"
    page = http.get("/docs")
    assert page.status_code == 200
    assert not re.search(r"(src|href)=.?(https?:)?//", page.text)
