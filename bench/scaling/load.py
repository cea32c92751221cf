"""Sends prepared commands to Redis over many connections, so cheaply that Redis is the one that is busy."""

from __future__ import annotations

import selectors
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from urllib.parse import urlsplit

#: ends the replies of an exchange of several commands
_MARK = b"end-of-exchange-0123456789"
_ECHO = b"*2\r\n$4\r\nECHO\r\n$%d\r\n%s\r\n" % (len(_MARK), _MARK)

Argument = str | bytes | int | float


def encode(arguments: Sequence[Argument]) -> bytes:
    """Return a command as Redis's protocol has it."""
    words = [each if isinstance(each, bytes) else str(each).encode() for each in arguments]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def exchange(commands: Sequence[bytes]) -> bytes:
    """Return commands that are sent at once, and whose replies are awaited before the next ones."""
    # the reply to one command arrives in one piece
    return commands[0] if len(commands) == 1 else b"".join(commands) + _ECHO


@dataclass
class _Connection:
    socket: socket.socket
    exchanges: Iterator[bytes]
    #: what has arrived of the replies to the exchange under way
    got: bytearray = field(default_factory=bytearray)
    marked: bool = False

    def send(self) -> bool:
        """Send the next exchange; return False if there is none."""
        sent = next(self.exchanges, None)
        if sent is None:
            return False
        self.got.clear()
        self.marked = sent.endswith(_ECHO)
        self.socket.setblocking(True)
        self.socket.sendall(sent)
        self.socket.setblocking(False)
        return True

    def receive(self) -> bool:
        """Read what there is; return whether the exchange is over. Raises RuntimeError for an error of Redis."""
        while True:
            try:
                data = self.socket.recv(1 << 18)
            except (BlockingIOError, ssl.SSLWantReadError):
                break
            if not data:
                raise RuntimeError("Redis closed the connection")
            self.got += data
        if self.got.startswith(b"-") or b"\r\n-" in self.got:
            raise RuntimeError(f"Redis refused a command: {bytes(self.got[-200:])!r}")
        return self.got.endswith(_MARK + b"\r\n" if self.marked else b"\r\n") and bool(self.got)


def send_all(url: str, exchanges: Sequence[Sequence[bytes]], tls: ssl.SSLContext | None = None) -> None:
    """Send each connection's exchanges, one after the other; all connections at the same time."""
    there = urlsplit(url)
    with selectors.DefaultSelector() as selector, ExitStack() as stack:
        connections = []
        for each in exchanges:
            raw = socket.create_connection((there.hostname, there.port))
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain = stack.enter_context(tls.wrap_socket(raw, server_hostname=there.hostname) if tls else raw)
            plain.sendall(encode(["AUTH", there.password or ""]))
            plain.recv(100)
            connections.append(_Connection(plain, iter(each)))
        for connection in connections:
            if connection.send():
                selector.register(connection.socket, selectors.EVENT_READ, connection)
        while selector.get_map():
            for key, _ in selector.select():
                connection = key.data
                if connection.receive() and not connection.send():
                    selector.unregister(connection.socket)
