"""The socket on which a gateway's processes accept connections, and the number of files that they may open."""

from __future__ import annotations

import resource
import socket

from vqa.errors import SettingsError
from vqa.gateway_settings import GatewaySettings

#: connections that wait in the kernel until they are accepted
_BACKLOG = 2048

#: a soft limit of open files is raised to this
_SOFT_FILES = 65_536


def bind(settings: GatewaySettings) -> socket.socket:
    """Return the listening socket. Raises SettingsError if the address is not this machine's, or the port is in use."""
    host, port = settings.address, settings.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        where = f"{host}:{port} (VQA_GATEWAY_ADDRESS, VQA_GATEWAY_PORT)"
        raise SettingsError(f"cannot listen on {where}: {error.strerror or type(error).__name__}") from None


def url_of(listening: socket.socket) -> str:
    """Return the address as a URL, with the port that was found if none was chosen."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def raise_file_limit() -> int:
    """Let this process open as many files as it may, since each waiting request is one; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _SOFT_FILES if hard == resource.RLIM_INFINITY else min(_SOFT_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft if soft != resource.RLIM_INFINITY else _SOFT_FILES
