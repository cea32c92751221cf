"""TCP connections to hosts that a caller names: a name is resolved once, and only public addresses are connected to.

A host with any address that is not public is refused as a whole: no honest name has both. DNS rebinding has no effect:
the connection goes to the address that was checked, and nothing resolves the name again. TLS and the header Host still
use the name.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from httpcore2 import SOCKET_OPTION, AnyIOBackend, AsyncNetworkBackend, AsyncNetworkStream, ConnectError, ConnectTimeout

from vqa.net.public import is_public

#: from a host and port to its addresses, the preferred one first
Resolve = Callable[[str, int], Awaitable[list[str]]]

#: addresses of a host that are tried, and seconds for each
_MOST_ADDRESSES, _TRY_S = 4, 5.0


class AddressRefused(ConnectError):
    """Not every address of the host is public."""


class HostUnknown(ConnectError):
    """The host has no address, says its name server: an error that a repetition does not change."""


#: what getaddrinfo fails with then; EAI_AGAIN is a name server that does not answer
_UNKNOWN = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))


async def resolve(host: str, port: int) -> list[str]:
    """Return the host's addresses as the operating system knows them. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class GuardedBackend(AsyncNetworkBackend):
    """httpcore2's network, without addresses that are not public.

    `private` lifts the guard, for hosts in the own network. Proxies of the environment are never used: they would
    resolve names themselves.
    """

    def __init__(
        self, private: bool = False, resolve: Resolve = resolve, network: AsyncNetworkBackend | None = None
    ) -> None:
        self.private = private
        self._resolve = resolve
        self._network = network or AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """Connect to the first address that answers within `timeout` seconds in all.

        Raises AddressRefused unless all are public, HostUnknown, ConnectTimeout or another ConnectError. Messages name
        no address, since a caller may see them.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._connect(host, port, local_address, socket_options)
        except TimeoutError:
            raise ConnectTimeout("no connection in time") from None

    async def _connect(
        self, host: str, port: int, local_address: str | None, socket_options: Iterable[SOCKET_OPTION] | None
    ) -> AsyncNetworkStream:
        try:
            found = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            unknown = isinstance(error, socket.gaierror) and error.errno in _UNKNOWN
            raise (HostUnknown if unknown else ConnectError)("the host's name cannot be resolved") from None
        if not found:
            raise HostUnknown("the host has no address")
        if not self.private and not all(map(is_public, found)):
            raise AddressRefused("not every address of the host is public")
        for address in found[:_MOST_ADDRESSES]:
            # a literal address, which is not resolved again
            with suppress(ConnectError, ConnectTimeout):
                return await self._network.connect_tcp(address, port, _TRY_S, local_address, socket_options)
        raise ConnectError("no address of the host accepts a connection")

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[SOCKET_OPTION] | None = None
    ) -> AsyncNetworkStream:
        """Raises AddressRefused."""
        raise AddressRefused("a socket of this machine is no public address")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
