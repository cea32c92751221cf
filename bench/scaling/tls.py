"""Lets a running Redis listen with TLS, too."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme
from redis import Redis

from producer.demo.redis_server import free_port

_HOST = "127.0.0.1"


@contextmanager
def serve_tls(redis: Redis) -> Iterator[tuple[str, ssl.SSLContext]]:
    """Yield the URL of another port of this server, and what a client needs to trust it."""
    authority, port, context = trustme.CA(), free_port(), ssl.create_default_context()
    issued = authority.issue_cert(_HOST)
    authority.configure_trust(context)
    with tempfile.TemporaryDirectory() as folder:
        names = {name: Path(folder) / f"{name}.pem" for name in ("tls-cert-file", "tls-key-file", "tls-ca-cert-file")}
        issued.cert_chain_pems[0].write_to_path(names["tls-cert-file"])
        issued.private_key_pem.write_to_path(names["tls-key-file"])
        authority.cert_pem.write_to_path(names["tls-ca-cert-file"])
        redis.config_set("tls-auth-clients", "no")
        redis.config_set(*[word for name, path in names.items() for word in (name, str(path))])
        redis.config_set("tls-port", port)
        password = redis.connection_pool.connection_kwargs["password"]
        yield f"rediss://:{password}@{_HOST}:{port}/0", context
