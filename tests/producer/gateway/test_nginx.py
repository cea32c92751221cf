"""The gateway behind a real nginx with `deploy/nginx.conf`: TLS, streams, sizes, slow clients."""

import base64
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
import trustme

from producer.demo.child import Child
from producer.demo.redis_server import free_port, is_free
from producer.gateway.process.protocol import IDLE_S
from tests.producer.gateway.gateway_process import GatewayProcess
from tests.worker_process import ROOT
from vqa.gateway_settings import FilesSettings, GatewaySettings
from vqa.settings import QueueSettings

CONFIGURATION = (ROOT / "deploy" / "nginx.conf").read_text()
IMAGE = ROOT / "examples" / "images" / "shape-07.png"
MIB = 2**20
WAIT_S = 30.0


class Nginx:
    """nginx with the project's configuration, whose ports, folders, upstream and time for headers are a test's."""

    def __init__(self, folder: Path, upstream: str, authority: trustme.CA) -> None:
        program = shutil.which("nginx")
        if program is None:
            pytest.fail("the tests of deploy/nginx.conf need nginx: apt-get install nginx-light")
        (folder / "tls").mkdir(parents=True)
        certificate = authority.issue_cert("127.0.0.1")
        certificate.private_key_pem.write_to_path(folder / "tls" / "key.pem")
        for piece in certificate.cert_chain_pems:
            piece.write_to_path(folder / "tls" / "cert.pem", append=True)
        self.port, self.plain_port = free_port(), free_port()
        self._trusted = ssl.create_default_context()
        authority.configure_trust(self._trusted)
        text = CONFIGURATION
        for old, new in {
            "listen 8443": f"listen 127.0.0.1:{self.port}",
            "listen 8080": f"listen 127.0.0.1:{self.plain_port}",
            "server gateway:8000": f"server {upstream}",
            "/tmp/": f"{folder}/",
            "client_header_timeout 10s": "client_header_timeout 2s",
        }.items():
            assert text.count(old) >= 1, old
            text = text.replace(old, new)
        (folder / "nginx.conf").write_text(text)
        # its workers otherwise become nobody, who may not enter a folder of root's test
        user = "user root;" if os.geteuid() == 0 else ""
        command = [program, "-p", folder, "-e", "stderr", "-c", folder / "nginx.conf", "-g", f"daemon off; {user}"]
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self._child = Child(command, log)
        until = time.monotonic() + WAIT_S
        while is_free("127.0.0.1", self.port):
            assert self._child.code() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.02)

    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=f"https://127.0.0.1:{self.port}", verify=self._trusted, timeout=WAIT_S)

    @contextmanager
    def connection(self) -> Iterator[ssl.SSLSocket]:
        """A connection on which a test sends what it likes."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S) as plain,
            self._trusted.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            yield secure

    def stop(self) -> None:
        self._child.stop()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def nginx(gateway: GatewayProcess, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    nginx = Nginx(tmp_path_factory.mktemp("nginx"), urlsplit(gateway.url).netloc, authority)
    yield nginx
    nginx.stop()


@pytest.fixture(scope="module")
def https(nginx: Nginx) -> Iterator[httpx2.Client]:
    with nginx.client() as client:
        yield client


class Upstream:
    """In the gateway's place, to see what nginx sends and when."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self._connections: list[socket.socket] = []

    def is_called(self, within_s: float) -> bool:
        self.socket.settimeout(within_s)
        try:
            connection, _ = self.socket.accept()
        except TimeoutError:
            return False
        connection.settimeout(WAIT_S)
        self._connections.append(connection)
        return True

    def read_until(self, end: bytes) -> bytes:
        received = b""
        while not received.endswith(end):
            received += self._connections[-1].recv(65536)
        return received

    def close(self) -> None:
        """Close all connections."""
        while self._connections:
            self._connections.pop().close()


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    with upstream.socket:
        yield upstream


@pytest.fixture(scope="module")
def before_upstream(
    upstream: Upstream, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nginx]:
    nginx = Nginx(tmp_path_factory.mktemp("nginx"), upstream.address, authority)
    yield nginx
    nginx.stop()


def chat(**fields: object) -> dict[str, object]:
    url = "data:image/png;base64," + base64.b64encode(IMAGE.read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is it?"}]
    return {"model": "echo", "messages": [{"role": "user", "content": content}], **fields}


def sizes(name: str) -> list[str]:
    return re.findall(rf"^ *{name} (\w+);", CONFIGURATION, re.MULTILINE)


def seconds(name: str) -> list[int]:
    return [int(value.removesuffix("s")) for value in sizes(name)]


def test_its_sizes_and_times_agree_with_the_settings() -> None:
    body, files = (int(size.removesuffix("m")) * MIB for size in sizes("client_max_body_size"))
    assert body == GatewaySettings().body_max_bytes
    # boundaries, headers and the other fields of the form
    assert files == FilesSettings().max_bytes + MIB
    [silence_s] = seconds("proxy_read_timeout")
    assert silence_s > 10 * QueueSettings().interactive_timeout_s
    [idle_s] = seconds("keepalive_timeout")
    assert idle_s < IDLE_S


def test_a_chat_passes_over_tls(https: httpx2.Client, nginx: Nginx) -> None:
    reply = https.post("/v1/chat/completions", json=chat())
    assert reply.status_code == 200
    assert reply.json()["choices"][0]["message"]["content"].startswith("echo:")
    assert reply.headers["strict-transport-security"] == "max-age=31536000"
    # the gateway's own headers are there once
    assert reply.headers.get_list("x-content-type-options") == ["nosniff"]
    # commands to copy name the address of the nginx
    assert f"GATEWAY=https://127.0.0.1:{nginx.port}\n" in https.get("/docs").text
    plain = httpx2.get(f"http://127.0.0.1:{nginx.plain_port}/v1/models?a=b", follow_redirects=False)
    assert (plain.status_code, plain.headers["location"]) == (308, "https://127.0.0.1/v1/models?a=b")


def test_a_stream_arrives_piece_by_piece(https: httpx2.Client) -> None:
    arrived: list[tuple[float, str]] = []
    body = chat(stream=True, metadata={"echo_delay_s": "2"})
    with https.stream("POST", "/v1/chat/completions", json=body) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        for line in reply.iter_lines():
            if line.startswith("data: {") and (choices := json.loads(line[6:])["choices"]):
                arrived.append((time.monotonic(), choices[0]["delta"].get("content") or ""))
    pieces = [(at, text) for at, text in arrived if text]
    assert len(pieces) > 1
    assert pieces[-1][0] - pieces[0][0] > 0.4


def test_a_client_that_leaves_a_stream_frees_its_slot(https: httpx2.Client) -> None:
    body = chat(stream=True, metadata={"echo_delay_s": "60"})
    with https.stream("POST", "/v1/chat/completions", json=body) as reply:
        # a generator that is thrown away closes the stream
        lines = reply.iter_lines()
        assert any('"content":"echo:' in line for line in lines)
        assert https.get("/v1/status").json()["lanes"]["interactive"]["leased"] == 1
    until = time.monotonic() + WAIT_S
    while https.get("/v1/status").json()["lanes"]["interactive"]["leased"]:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_images_and_files_are_uploaded(https: httpx2.Client) -> None:
    stored = https.post("/v1/images", files={"file": ("a.png", IMAGE.read_bytes(), "image/png")})
    assert stored.json()["id"].startswith("img_")
    row = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": chat()}
    content = (json.dumps(row) + "\n").encode() * 1000
    sent = https.post("/v1/files", data={"purpose": "batch"}, files={"file": ("rows.jsonl", content)})
    assert sent.status_code == 200, sent.text
    assert sent.json()["bytes"] == len(content)


@pytest.mark.parametrize(("path", "mib", "refused"), [("/v1/images", 65, True), ("/v1/files", 150, False)])
def test_a_body_that_is_too_large_is_refused_before_it_is_sent(
    nginx: Nginx, gateway: GatewayProcess, path: str, mib: int, refused: bool
) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: {mib * MIB}\r\n\r\n"
    with nginx.connection() as connection:
        connection.sendall(head.encode())
        reply = connection.recv(65536).decode()
    assert ("HTTP/1.1 413" in reply) is refused
    # the gateway gives every request an id
    assert ("x-request-id" in reply.lower()) is not refused
    if refused:
        assert json.loads(reply.partition("\r\n\r\n")[2])["error"]["code"] == "body_too_large"


def test_a_body_in_chunks_is_counted_too(https: httpx2.Client) -> None:
    part = bytes(MIB)
    reply = https.post("/v1/images", content=(part for _ in range(66)), headers={"Content-Type": "image/png"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")


def test_a_slow_body_reaches_the_gateway_when_it_is_whole(before_upstream: Nginx, upstream: Upstream) -> None:
    claims = "X-Forwarded-For: 10.1.2.3\r\nX-Forwarded-Proto: http\r\ntraceparent: 00-a-b-01\r\nX-Request-ID: r1\r\n"
    with before_upstream.connection() as connection:
        connection.sendall(f"POST /v1/ask HTTP/1.1\r\nHost: a.example\r\n{claims}Content-Length: 6\r\n\r\n".encode())
        connection.sendall(b"abc")
        assert not upstream.is_called(within_s=0.5)
        connection.sendall(b"def")
        assert upstream.is_called(within_s=WAIT_S)
        head, _, body = upstream.read_until(b"def").decode().partition("\r\n\r\n")
        upstream.close()
    assert body == "abcdef"
    headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
    expected = {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https", "Host": "a.example"}
    assert headers.items() >= {**expected, "traceparent": "00-a-b-01", "X-Request-ID": "r1"}.items()


def test_an_upload_passes_as_it_comes(before_upstream: Nginx, upstream: Upstream) -> None:
    with before_upstream.connection() as connection:
        connection.sendall(b"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
        assert upstream.is_called(within_s=WAIT_S)
        assert upstream.read_until(b"abc").endswith(b"\r\n\r\nabc")
        upstream.close()


def test_uploads_of_one_address_are_limited(before_upstream: Nginx, upstream: Upstream) -> None:
    head = b"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(8):
            connection = stack.enter_context(before_upstream.connection())
            connection.sendall(head)
            assert upstream.is_called(within_s=WAIT_S)
        with before_upstream.client() as client:
            reply = client.post("/v1/files", content=b"abcdef")
        upstream.close()
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "5")
    assert reply.json()["error"]["code"] == "too_many_uploads"


def test_a_client_that_sends_its_headers_byte_by_byte_is_cut_off(before_upstream: Nginx, upstream: Upstream) -> None:
    began = time.monotonic()
    with before_upstream.connection() as connection:
        connection.settimeout(0.1)
        cut_off = False
        for byte in b"GET /" + b"a" * 10_000:
            try:
                connection.sendall(bytes([byte]))
                cut_off = connection.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                cut_off = True
            if cut_off:
                break
    assert cut_off
    # the configuration has five times as much
    assert 0.5 < time.monotonic() - began < 10


def test_a_gateway_that_is_away_is_an_error_that_clients_understand(authority: trustme.CA, tmp_path: Path) -> None:
    nginx = Nginx(tmp_path / "nginx", f"127.0.0.1:{free_port()}", authority)
    with nginx.client() as client:
        reply = client.post("/v1/chat/completions", json=chat())
    nginx.stop()
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
    assert reply.json()["error"] == {
        "message": "the gateway does not answer",
        "type": "server_error",
        "param": None,
        "code": "gateway_away",
    }


def test_nginx_reads_it_as_it_stands(tmp_path: Path, authority: trustme.CA) -> None:
    """All but the gateway's name, which only compose's network knows."""
    program = shutil.which("nginx")
    assert program is not None
    certificate = authority.issue_cert("a.example")
    (tmp_path / "tls").mkdir()
    certificate.private_key_pem.write_to_path(tmp_path / "tls" / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "tls" / "cert.pem")
    (tmp_path / "nginx.conf").write_text(CONFIGURATION.replace("server gateway:8000", "server 127.0.0.1:8000"))
    command = [program, "-t", "-q", "-p", tmp_path, "-c", tmp_path / "nginx.conf"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
