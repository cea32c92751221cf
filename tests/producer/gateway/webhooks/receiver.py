"""A real web server that receives webhooks, and answers them as a test says."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import standardwebhooks

SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSBnYXRld2F5IGZvciB0ZXN0cw=="


@dataclass(frozen=True)
class Received:
    """One request."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    def verified(self, secret: str = SECRET) -> Any:
        """The event, if its signature is right."""
        return standardwebhooks.Webhook(secret).verify(self.body, dict(self.headers))

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


#: writes a whole response, or anything else
Answer = Callable[[BaseHTTPRequestHandler], None]


def status(code: int, **headers: str) -> Answer:
    """Answer with a status and headers; `Retry_After="60"`."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return write


class Receiver:
    """`with Receiver() as receiver:` then `receiver.url`. Answers 204 unless told."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        #: answers in order; afterwards `always`
        self.answers: list[Answer] = []
        self.always = status(204)
        #: requests in progress, and the most there ever were at once
        self.now = self.most = 0
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver._handle(self)

            def do_GET(self) -> None:
                receiver._handle(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                # the gateway was killed, or has hung up
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        with self._lock:
            self.received.append(Received(handler.path, headers, body))
            answer = self.answers.pop(0) if self.answers else self.always
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            answer(handler)
        finally:
            with self._lock:
                self.now -= 1

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/hook"

    @property
    def port(self) -> int:
        return self._server.server_port

    def wait(self, count: int, timeout_s: float = 60) -> list[Received]:
        """Return what came, once it is at least so many requests."""
        until = time.monotonic() + timeout_s
        while len(self.received) < count:
            assert time.monotonic() < until, f"{len(self.received)} of {count} requests came"
            time.sleep(0.01)
        return list(self.received)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
