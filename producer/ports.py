"""Ports to listen on. What is free now may be taken a moment later: whoever starts a server must be ready for that."""

from __future__ import annotations

import socket


def is_free(address: str, port: int) -> bool:
    """Whether nothing listens on the port; False too where the address is not this machine's."""
    with _probe(address) as probe:
        # a port that a stopped server's last connections still linger on is free
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def free_port(address: str = "127.0.0.1") -> int:
    """One that nothing listens on."""
    with _probe(address) as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
    return port


def _probe(address: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
