"""A local server that speaks as much of S3 as an image store needs, and can be told to fail."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class BucketServer:
    """Objects in memory; a context manager. `failing` is the status of every reply while it is set."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.failing: int | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables with which an S3 client reaches it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def reply(self, status: int, body: bytes = b"", length: int | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                self.send_header("ETag", '"tag"')
                self.send_header("Last-Modified", "Sun, 29 Nov 2026 12:00:00 GMT")
                self.end_headers()
                self.wfile.write(body)

            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                bucket.requests.append((self.command, self.path))
                if bucket.failing is not None:
                    return self.reply(bucket.failing)
                if self.command == "PUT":
                    bucket.objects[self.path] = body
                    return self.reply(200)
                if self.command == "POST":
                    # DeleteObjects
                    keys = re.findall(r"<Key>([^<]+)</Key>", body.decode())
                    for key in keys:
                        bucket.objects.pop(f"{self.path.partition('?')[0]}/{key}", None)
                    deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
                    return self.reply(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())
                data = bucket.objects.get(self.path)
                if data is None:
                    return self.reply(404)
                if self.command == "HEAD":
                    return self.reply(200, length=len(data))
                return self.reply(200, data)

            do_GET = do_HEAD = do_PUT = do_POST = handle_one

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        return Handler
