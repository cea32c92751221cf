"""Connections to named hosts: to the address that was checked, and to no other."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import httpcore2
import pytest
import trustme

from vqa.net.guarded import AddressRefused, GuardedBackend

PUBLIC, OTHER = "93.184.215.14", "2606:4700:4700::1111"


class Routed(httpcore2.AnyIOBackend):
    """The network, in which every address is that of one local port; those in `dead` refuse connections."""

    def __init__(self, port: int, dead: tuple[str, ...] = ()) -> None:
        self.port, self.dead = port, dead
        self.addresses: list[str] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        self.addresses.append(host)
        if host in self.dead:
            raise httpcore2.ConnectError("refused")
        return await super().connect_tcp("127.0.0.1", self.port, timeout, local_address, socket_options)


class Names:
    """A resolver whose answers change: one list of addresses after the other; the last one stays."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Server:
    """A web server that answers each request with 200 and remembers its Host."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.context = context
        self.hosts: list[str] = []
        self.port = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.context)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        self.hosts += [line.partition(": ")[2] for line in head.split("\r\n") if line.startswith("host: ")]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()


async def get(url: str, backend: GuardedBackend, context: ssl.SSLContext | None = None) -> int:
    async with httpcore2.AsyncConnectionPool(context, network_backend=backend) as pool:
        return (await pool.request("GET", url)).status


def test_the_checked_address_is_connected_to_and_the_name_is_kept() -> None:
    async def main() -> None:
        server, names = Server(), Names([PUBLIC])
        async with server.listening():
            network = Routed(server.port)
            assert await get("http://hooks.example/x", GuardedBackend(resolve=names, network=network)) == 200
            assert (network.addresses, names.asked) == ([PUBLIC], ["hooks.example"])
            assert server.hosts == ["hooks.example"]

    asyncio.run(main())


def test_a_name_that_resolves_to_another_address_later_has_no_effect() -> None:
    async def main() -> None:
        server, names = Server(), Names([PUBLIC], ["127.0.0.1"])
        async with server.listening():
            network = Routed(server.port)
            backend = GuardedBackend(resolve=names, network=network)
            assert await get("http://hooks.example/", backend) == 200
            # resolved again for the next connection, and refused then
            with pytest.raises(AddressRefused):
                await get("http://hooks.example/", backend)
            assert network.addresses == [PUBLIC]

    asyncio.run(main())


@pytest.fixture
def certificates() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server called hooks.example, and of a client that trusts it."""
    authority = trustme.CA()
    of_server, of_client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("hooks.example").configure_cert(of_server)
    authority.configure_trust(of_client)
    return of_server, of_client


def test_tls_names_and_checks_the_host(certificates: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    of_server, of_client = certificates
    named: list[str | None] = []
    of_server.sni_callback = lambda _socket, name, _context: named.append(name)

    async def main() -> None:
        server = Server(of_server)
        async with server.listening():
            backend = GuardedBackend(resolve=Names([PUBLIC]), network=Routed(server.port))
            assert await get("https://hooks.example/", backend, of_client) == 200
            assert (named, server.hosts) == (["hooks.example"], ["hooks.example"])
            # the certificate is another name's
            with pytest.raises(httpcore2.ConnectError):
                await get("https://other.example/", backend, of_client)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://internal.example/", ["10.1.2.3"]),
        ("http://metadata.example/", ["169.254.169.254", "::1", "::ffff:10.0.0.1"]),
        ("http://127.0.0.1/", ["127.0.0.1"]),
        ("http://[::1]/", ["::1"]),
    ],
)
def test_a_host_without_a_public_address_is_refused(url: str, found: list[str]) -> None:
    network = Routed(9)
    with pytest.raises(AddressRefused) as refused:
        asyncio.run(get(url, GuardedBackend(resolve=Names(found), network=network)))
    assert network.addresses == []
    # a caller may read it
    assert not any(address in str(refused.value) for address in found)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1", "0x7f.0.0.1", "2130706433", "[::1]", "0"])
def test_no_way_to_write_this_machine_reaches_it(host: str) -> None:
    async def main() -> None:
        server = Server()
        async with server.listening():
            with pytest.raises(httpcore2.ConnectError):
                await get(f"http://{host}:{server.port}/", GuardedBackend())
            assert server.hosts == []
            # the same, where it is allowed
            if host != "[::1]":
                assert await get(f"http://{host}:{server.port}/", GuardedBackend(private=True)) == 200

    asyncio.run(main())


@pytest.mark.parametrize(
    "found",
    [["10.0.0.1", PUBLIC], [PUBLIC, "127.0.0.1"], [PUBLIC, OTHER, "::ffff:169.254.169.254"]],
    ids=["first", "last", "mapped"],
)
def test_a_host_with_one_private_address_among_public_ones_is_refused(found: list[str]) -> None:
    network = Routed(9)
    with pytest.raises(AddressRefused):
        asyncio.run(get("http://hooks.example/", GuardedBackend(resolve=Names(found), network=network)))
    assert network.addresses == []


def test_a_dead_address_is_passed_over() -> None:
    async def main() -> None:
        server = Server()
        async with server.listening():
            network = Routed(server.port, dead=(PUBLIC,))
            names = Names([PUBLIC, OTHER])
            assert await get("http://hooks.example/", GuardedBackend(resolve=names, network=network)) == 200
            assert network.addresses == [PUBLIC, OTHER]

    asyncio.run(main())


def test_a_host_without_an_address_is_an_error_of_the_connection() -> None:
    with pytest.raises(httpcore2.ConnectError, match="has no address"):
        asyncio.run(get("http://unresolved.example/", GuardedBackend(resolve=Names([]), network=Routed(9))))


def test_a_resolver_that_does_not_answer_is_a_timeout() -> None:
    async def silent(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return [PUBLIC]

    async def main() -> None:
        with pytest.raises(httpcore2.ConnectTimeout):
            await GuardedBackend(resolve=silent).connect_tcp("hooks.example", 443, timeout=0.05)

    asyncio.run(main())


def test_a_name_that_does_not_exist_and_a_socket_file_are_errors_of_the_connection() -> None:
    async def main() -> None:
        for host in ("no-such-host.invalid", "x" * 300, "a..b"):
            with pytest.raises(httpcore2.ConnectError):
                await GuardedBackend().connect_tcp(host, 443, timeout=20)
        with pytest.raises(AddressRefused):
            await GuardedBackend(private=True).connect_unix_socket("/run/redis.sock")

    asyncio.run(main())
