import ssl
from collections.abc import Iterator
from typing import Any, Protocol

import pytest
import trustme

from tests.vqa.fetch.network import PUBLIC, Names, Routed
from tests.vqa.fetch.site import Site
from vqa.fetch import retry
from vqa.fetch.fetcher import Fetcher
from vqa.fetch.settings import FetchSettings
from vqa.net.guarded import GuardedBackend

#: bytes that an image may have
LIMIT = 100_000


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_PAUSE_S", 0.05)


class MakeFetcher(Protocol):
    def __call__(self, *hosts: str, max_bytes: int = LIMIT, **settings: Any) -> Fetcher: ...


@pytest.fixture
def make_fetcher(certificates: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[MakeFetcher]:
    """Make fetchers that may reach this machine; hosts are entries of the allow-list."""
    made: list[Fetcher] = []

    def make(*hosts: str, max_bytes: int = LIMIT, **settings: Any) -> Fetcher:
        values = {"private": True, "timeout_s": 5, "first_byte_s": 2} | settings
        # reading the system's certificates takes a while
        made.append(Fetcher(FetchSettings(hosts=",".join(hosts), **values), max_bytes, context=certificates[1]))
        return made[-1]

    yield make
    for fetcher in made:
        fetcher.close()


@pytest.fixture(scope="session")
def certificates() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server called images.example, and of a client that trusts it."""
    authority = trustme.CA()
    of_server, of_client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("images.example").configure_cert(of_server)
    authority.configure_trust(of_client)
    return of_server, of_client


class MakePublic(Protocol):
    def __call__(self, site: Site, names: Names | None = None, **settings: Any) -> tuple[Fetcher, Routed]: ...


@pytest.fixture
def make_public(certificates: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[MakePublic]:
    """Make fetchers of the Internet: images.example and every public address lead to the site, the guard is on."""
    made: list[Fetcher] = []

    def make(site: Site, names: Names | None = None, **settings: Any) -> tuple[Fetcher, Routed]:
        network = Routed(site.port)
        guarded = GuardedBackend(resolve=names or Names({"images.example": [[PUBLIC]]}), network=network)
        values = {"hosts": "images.example", "timeout_s": 5, "first_byte_s": 2} | settings
        made.append(Fetcher(FetchSettings(**values), LIMIT, guarded, certificates[1]))
        return made[-1], network

    yield make
    for fetcher in made:
        fetcher.close()
