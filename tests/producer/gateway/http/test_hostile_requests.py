"""Requests that nobody sends by accident: each is refused at once, and the gateway serves on."""

import json
import socket
import time
from collections.abc import Callable, Iterator

import httpx2
import pytest

from tests.producer.gateway.gateway_process import GatewayProcess

SIZE = 64 * 2**20 - 1000

POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GET = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n"

JSON = "application/json"
PARTS = "multipart/form-data; boundary=b"
PAIRS = "application/x-www-form-urlencoded"

MakeBody = Callable[[], bytes]

END = b"--b--\r\n"


@pytest.fixture(autouse=True)
def _nothing_unexpected(gateway: GatewayProcess, http: httpx2.Client) -> Iterator[None]:
    before = len(gateway.log.read_text())
    yield
    assert http.get("/healthz").status_code == 200
    assert "Traceback" not in gateway.log.read_text()[before:]


def part(name: bytes, content: bytes, more: bytes = b"") -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="' + name + b'"' + more + b"\r\n\r\n" + content + b"\r\n"


def nested(depth: int) -> bytes:
    return b"".join(b"--%d\r\nContent-Type: multipart/mixed; boundary=%d\r\n\r\n" % (n, n + 1) for n in range(depth))


def send(http: httpx2.Client, path: str, kind: str, body: bytes) -> httpx2.Response:
    """Send; the answer is there at once, also on a busy machine, and has OpenAI's form."""
    started = time.monotonic()
    reply = http.post(path, content=body, headers={"Content-Type": kind})
    assert time.monotonic() - started < 10
    assert reply.status_code in (400, 413, 415), reply.text
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert len(reply.content) < 1000
    return reply


#: made where they are sent: they are large
LARGE: dict[str, MakeBody] = {
    "digits": lambda: b"9" * SIZE,
    "digits in a field": lambda: b'{"messages":' + b"9" * (SIZE - 20) + b"}",
    "decimals": lambda: b'{"temperature":0.' + b"1" * (SIZE - 20) + b"}",
    "nested lists": lambda: b"[" * (SIZE // 2) + b"]" * (SIZE // 2),
    "one key again and again": lambda: b"{" + b'"":1,' * (SIZE // 5 - 2) + b'"":1}',
    "spaces": lambda: b" " * SIZE,
}


@pytest.mark.parametrize("what", LARGE)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/ask", "/v1/images", "/v1/batches"])
def test_64_mb_of_one_thing_are_refused_at_once(http: httpx2.Client, path: str, what: str) -> None:
    send(http, path, JSON, LARGE[what]())


FORMS: dict[str, MakeBody] = {
    "fields": lambda: part(b"question", b"?") * 100_000 + END,
    "files": lambda: part(b"file", b"?", b'; filename="a"') * 100_000 + END,
    "one field": lambda: part(b"question", b"?" * SIZE) + END,
    "parts within parts": lambda: (
        part(b"file", nested(100_000), b'; filename="a"\r\nContent-Type: multipart/mixed') + END
    ),
    "a header": lambda: b"--b\r\nX-Large: " + b"a" * SIZE + b"\r\n\r\n\r\n" + END,
    "headers": lambda: b"--b\r\n" + b"X-Many: 1\r\n" * 1_000_000 + b"\r\n" + END,
    "boundaries": lambda: b"\r\n--b" * (SIZE // 5),
    "no name": lambda: part(b"", b"\xff\xfe") + END,
    "a name that is no text": lambda: part(b"\xff\xfe", b"?") + END,
    "no end": lambda: part(b"question", b"?"),
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("what", FORMS)
@pytest.mark.parametrize("path", ["/v1/ask", "/v1/images", "/v1/files"])
def test_forms_that_are_none_are_refused_at_once(http: httpx2.Client, path: str, what: str) -> None:
    send(http, path, PARTS, FORMS[what]())


@pytest.mark.parametrize("unit", [b"&", b"a=&", b"a", b"%41", b"question=?&"])
def test_pairs_without_end_are_refused_at_once(http: httpx2.Client, unit: bytes) -> None:
    send(http, "/v1/ask", PAIRS, unit * (SIZE // len(unit)))


@pytest.mark.parametrize("charset", ["undefined", "utf-7", "idna", "unicode_escape", "zlib_codec", "nonsense"])
def test_a_form_in_a_charset_that_may_be_anything_is_refused(http: httpx2.Client, charset: str) -> None:
    form = part(b"question", b"\\ud800") + part(b"image", b"img_x") + END
    for path in ("/v1/ask", "/v1/images"):
        reply = send(http, path, f"{PARTS}; charset={charset}", form)
        assert "charset" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages": NaN}',
        b'{"temperature": Infinity}',
        b'{"temperature": 1e999}',
        b'{"temperature": -1e999}',
        b'{"seed": 1e19}',
        b'{"metadata": {"a": "\\ud800"}}',
        b'{"\\udfff": 1}',
        b'{"messages": "\xff"}',
        b'{"messages": "\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"messages": []}',
        '{"messages": []}'.encode("utf-16"),
        b'{"messages": [], "messages": []}',
        b'{"messages": []}{}',
        b'{"messages": "\x00"}',
        b"null",
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/ask", "/v1/images", "/v1/batches"])
def test_values_that_json_or_utf_8_do_not_have_are_refused(http: httpx2.Client, path: str, body: bytes) -> None:
    send(http, path, JSON, body)


def test_the_last_of_two_fields_of_one_name_counts(http: httpx2.Client) -> None:
    text = '{"messages": [], "model": "vqa-echo", "messages": [{"role": "user", "content": "the last"}]}'
    reply = http.post("/v1/chat/completions", content=text, headers={"Content-Type": JSON})
    assert reply.json()["choices"][0]["message"]["content"] == "the last"


def talk(gateway: GatewayProcess, said: bytes) -> bytes:
    """Return all that the gateway answers until it closes the connection."""
    url = httpx2.URL(gateway.url)
    with socket.create_connection((url.host, url.port or 80), timeout=10) as connection:
        connection.sendall(said)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


@pytest.mark.parametrize(
    "said",
    [
        POST + b"Content-Length: -1\r\n\r\n{}",
        POST + b"Content-Length: +2\r\n\r\n{}",
        POST + b"Content-Length: 0x2\r\n\r\n{}",
        POST + b"Content-Length: 99999999999999999999999999\r\n\r\n{}",
        POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        POST + b"Content-Length: 2, 3\r\n\r\n{}",
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        GET + b"X-Nul: a\0b\r\n\r\n",
        GET + b"X-Folded: a\r\n b\r\n\r\n",
        GET + b"X Spaced: a\r\n\r\n",
        b"GET /v1/models/\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\nHost: localhost\n\n",
        b"CONNECT a:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_http_that_servers_read_differently_is_refused(gateway: GatewayProcess, said: bytes) -> None:
    head, _, body = talk(gateway, said).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "bad_http"


@pytest.mark.parametrize("size", [b"zz", b"-1", b"f" * 18])
def test_a_chunk_of_no_size_ends_the_connection(gateway: GatewayProcess, size: bytes) -> None:
    assert talk(gateway, POST + b"Transfer-Encoding: chunked\r\n\r\n" + size + b"\r\n{}\r\n0\r\n\r\n") == b""


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /v1/models/%ff%00 HTTP/1.1\r\nHost: localhost\r\n", 404),
        (b"GET /v1/files?after=%ff%00 HTTP/1.1\r\nHost: localhost\r\n", 400),
        (b"GET /v1/files?limit=" + b"9" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n", 404),
        (GET + b"Authorization: Bearer \xff\xfe\r\nPrefer: \xff\r\nTraceparent: \xff\r\nX-Request-ID: \xff\r\n", 200),
        (POST + b"Idempotency-Key: \xff\xfe\r\nContent-Length: 0\r\n", 400),
    ],
)
def test_bytes_that_are_no_text_are_answered(gateway: GatewayProcess, request_: bytes, status: int) -> None:
    assert talk(gateway, request_ + b"Connection: close\r\n\r\n").split()[1] == str(status).encode()
