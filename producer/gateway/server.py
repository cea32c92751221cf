"""Runs one gateway process: a socket, uvicorn, and an orderly end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from producer.gateway.app import create_app
from producer.process import INTERRUPTED
from vqa.errors import SettingsError
from vqa.gateway_settings import GatewaySettings
from vqa.output import protect_output

log = logging.getLogger(__name__)

#: connections that the kernel holds until they are accepted
_BACKLOG = 2048


def bind(settings: GatewaySettings) -> socket.socket:
    """Return the listening socket. Raises SettingsError if the address is not this machine's or the port is in use."""
    host, port = settings.address, settings.port
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        where = f"{host}:{port} (VQA_GATEWAY_ADDRESS, VQA_GATEWAY_PORT)"
        raise SettingsError(f"cannot listen on {where}: {error.strerror or error}") from None


def url_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn, with signals of ours: the first lets requests end, the second ends the process at once."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._gateway = app
        self.signal = 0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(exit_status(self.signal))
        self._gateway.state.stopping = True
        self.signal = sig
        self.should_exit = True


def exit_status(number: int) -> int:
    return INTERRUPTED if number == signal.SIGINT else 0


def serve(settings: GatewaySettings, listening: socket.socket) -> int:
    """Serve until a signal; return the exit status."""
    protect_output()
    app = create_app(settings=settings)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        server_header=False,
        proxy_headers=False,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=settings.drain_s,  # type: ignore[arg-type]
    )
    server = Server(config, app)
    log.info("listening on %s", url_of(listening))
    server.run([listening])
    return exit_status(server.signal)
