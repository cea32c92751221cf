"""A server of the example images on loopback, so that a demo asks about an image on the web.

It speaks https with a certificate of its own if the command `openssl` is there, else http.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

from vqa.fetch.settings import FetchSettings

#: what the extra `fetch` brings and nothing else does
_PACKAGE = "httpcore2"

#: variable that names the certificates to trust
_TRUST = "SSL_CERT_FILE"

_OPENSSL_S = 20.0

#: Python 3.13 wants the key usage of a certificate that is trusted
_EXTENSIONS = ("subjectAltName=IP:127.0.0.1", "keyUsage=critical,digitalSignature,keyCertSign")


@dataclass(frozen=True, slots=True)
class ImageServer:
    """A running server."""

    url: str
    #: what a client needs to fetch from it
    fetch_settings: FetchSettings
    #: file with the certificate; None for http
    certificate: Path | None

    @contextmanager
    def trusted(self) -> Iterator[None]:
        """Have this process, and no child that it has started before, trust the server."""
        before = os.environ.get(_TRUST)
        if self.certificate is not None:
            os.environ[_TRUST] = str(self.certificate)
        try:
            yield
        finally:
            os.environ.pop(_TRUST, None)
            if before is not None:
                os.environ[_TRUST] = before


def installed() -> bool:
    """Return whether a client can fetch at all."""
    return find_spec(_PACKAGE) is not None


@contextmanager
def image_server(folder: Path) -> Iterator[ImageServer]:
    """Serve the files of the folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    with tempfile.TemporaryDirectory(prefix="vqa-images-") as name, server:
        certificate = _certificate(Path(name))
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, _key(certificate))
            # the handler's thread shakes hands, not the one that accepts
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        scheme, host = "http" if certificate is None else "https", f"127.0.0.1:{server.server_port}"
        settings = FetchSettings(hosts=f"{scheme}://{host}", private=True)
        threading.Thread(target=server.serve_forever, name="vqa-demo-images", daemon=True).start()
        try:
            yield ImageServer(f"{scheme}://{host}", settings, certificate)
        finally:
            server.shutdown()


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the demo's output is for the answers."""


def _key(certificate: Path) -> Path:
    return certificate.with_name("key.pem")


def _certificate(folder: Path) -> Path | None:
    """Make a certificate of 127.0.0.1 and its key; return None without `openssl`."""
    if (openssl := shutil.which("openssl")) is None:
        return None
    certificate = folder / "certificate.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=127.0.0.1", *(word for each in _EXTENSIONS for word in ("-addext", each))]
    files = ["-keyout", str(_key(certificate)), "-out", str(certificate)]
    try:
        made = subprocess.run(
            [openssl, "req", "-x509", *kind, *names, *files], capture_output=True, timeout=_OPENSSL_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return certificate if made.returncode == 0 else None
