"""Networks of the tests' own, for the guarded backend: names and addresses lead where a test says."""

from collections.abc import Iterable, Mapping

import httpcore2

#: addresses of the Internet; nothing is sent there
PUBLIC, OTHER = "93.184.215.14", "2606:4700:4700::1111"


class Routed(httpcore2.AnyIOBackend):
    """The network, in which every address is that of one local port."""

    def __init__(self, port: int = 9) -> None:
        self.port = port
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
        return await super().connect_tcp("127.0.0.1", self.port, timeout, local_address, socket_options)


class Names:
    """A resolver: each name has answers, one list of addresses after the other; the last one stays."""

    def __init__(self, answers: Mapping[str, list[list[str]]] | None = None) -> None:
        self.answers = {name: list(lists) for name, lists in (answers or {}).items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if (mine := self.answers.get(host)) is None:
            # as the system's resolver does: an address is its own
            return [host]
        return mine.pop(0) if len(mine) > 1 else mine[0]
