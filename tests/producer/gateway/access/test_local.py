"""Without API keys a gateway on a loopback address answers this machine, and not all that a browser here sends it."""

import asyncio

import httpx2
import pytest

from tests.producer.gateway.conftest import Asgi

ANY_PORT = "127.0.0.1:1"


def ask(http: httpx2.Client, png: bytes, **headers: str) -> httpx2.Response:
    """A form, which any page may send to any address."""
    fields = {"question": "?", "model": "vqa-echo"}
    return http.post("/v1/ask", data=fields, files={"image": ("a.png", png)}, headers=headers)


@pytest.mark.parametrize("host", ["site.example", "site.example:8000", "10.0.0.1", "127.0.0.1.site.example", "[", ""])
def test_a_name_that_is_not_this_machines_is_refused(http: httpx2.Client, png: bytes, host: str) -> None:
    replies = [ask(http, png, Host=host), http.get("/v1/files", headers={"Host": host})]
    assert {reply.status_code for reply in replies} == {403}
    assert replies[0].json()["error"]["code"] == "not_local"


@pytest.mark.parametrize("origin", ["https://site.example", "http://localhost.site.example", "null", "file://"])
def test_a_form_of_another_site_is_refused(http: httpx2.Client, png: bytes, origin: str) -> None:
    assert ask(http, png, Origin=origin).status_code == 403


@pytest.mark.parametrize("host", [ANY_PORT, "localhost", "localhost:8000", "[::1]:8000"])
def test_programs_and_pages_of_this_machine_are_answered(http: httpx2.Client, png: bytes, host: str) -> None:
    assert ask(http, png, Host=host).status_code == 200
    assert ask(http, png, Host=host, Origin=f"http://{host}").status_code == 200


@pytest.mark.parametrize(
    ("settings", "headers"),
    [
        ({"open": True}, {"Host": "site.example", "Origin": "https://other.example"}),
        ({"cors_origins": "https://site.example"}, {"Origin": "https://site.example"}),
        ({"cors_origins": "*"}, {"Origin": "https://site.example"}),
    ],
)
def test_what_settings_allow_is_answered(asgi: Asgi, settings: dict[str, object], headers: dict[str, str]) -> None:
    async def status() -> int:
        async with asgi(**settings) as http:
            return (await http.get("/v1/status", headers=headers)).status_code

    assert asyncio.run(status()) == 200
