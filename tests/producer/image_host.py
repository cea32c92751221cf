"""A server of images over https, which processes and clients that have its `variables` may fetch from."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

import trustme

from tests.vqa.fetch.site import Reply, Site, response, says, served


class Identity:
    """A certificate of 127.0.0.1, and the authority that `SSL_CERT_FILE` has to name."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.context = SSLContext(PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self.context)
        self.authority = folder / "authority.pem"
        authority.cert_pem.write_to_path(str(self.authority))


class ImageHost:
    """What its requests get are the replies of `site`, one after the other."""

    def __init__(self, site: Site, identity: Identity) -> None:
        self.site = site
        #: of a process that may fetch from it
        self.variables = {
            "SSL_CERT_FILE": str(identity.authority),
            "VQA_FETCH_HOSTS": "127.0.0.1:*",
            "VQA_FETCH_PRIVATE": "1",
        }

    def url(self, name: str = "cat.png") -> str:
        """The address of an image, with a query that nobody else may learn."""
        return f"https://127.0.0.1:{self.site.port}/{name}?signature=s3cr3t"

    def replies(self, *replies: Reply) -> None:
        self.site.replies = list(replies)

    def paths(self) -> list[str]:
        """What was asked for."""
        return [head.split()[1].decode().partition("?")[0] for head in self.site.requests]


def image(data: bytes, **headers: Any) -> Reply:
    return says(response(data, **headers))


def slow(data: bytes, pause_s: float) -> Reply:
    async def reply(head: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(pause_s)
        writer.write(response(data))
        await writer.drain()

    return reply


def failing(status: str, **headers: Any) -> Reply:
    return says(response(b"no", status, "text/plain", **headers))


@contextmanager
def image_host(identity: Identity, data: bytes) -> Iterator[ImageHost]:
    """Serve the image."""
    site = Site(image(data))
    with served(site, context=identity.context):
        yield ImageHost(site, identity)
