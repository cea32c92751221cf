"""Serves HTTP in one process until a signal: uvicorn, with an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from types import FrameType

import uvicorn

from producer.gateway.access.exposure import require_keys_later
from producer.gateway.app import GatewayApp, create_app
from producer.gateway.process.lifeline import Lifeline
from producer.gateway.process.protocol import IDLE_S, Config, GatewayProtocol
from producer.process import INTERRUPTED, USAGE
from vqa.errors import SettingsError
from vqa.gateway_settings import GatewaySettings
from vqa.log.output import protect_output
from vqa.tracing.active import start_tracing

log = logging.getLogger(__name__)

#: seconds in which requests that are cut off at the end cancel their jobs
_CUT_OFF_S = 5.0

#: between two looks at whether requests have ended
_LOOK_S = 0.05

#: seconds after which the event loop and threads that compute hand the interpreter to each other; Python's 5 ms are
#: longer than most requests take, which change threads several times
_SWITCH_S = 0.0005

#: open files besides connections: Redis, code, logs
_OTHER_FILES = 256


class Server(uvicorn.Server):
    """uvicorn with other signals: the first lets requests in progress end, the second ends the process at once."""

    def __init__(self, app: GatewayApp, max_files: int, lifeline: Lifeline) -> None:
        self._app = app
        self._lifeline = lifeline
        self._drain_s = app.settings.drain_s
        #: exit status once it has ended
        self.status = 0
        super().__init__(_config(app, max_files))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals; unlike uvicorn's, this does not raise them again at the end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            protect_output().drain(0.2)
            os._exit(self.status)
        self.end(INTERRUPTED if sig == signal.SIGINT else 0)

    def end(self, status: int) -> None:
        """Accept nothing more, and end once requests in progress have, with this exit status."""
        self._app.state.stopping = True
        self.status = status
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._lifeline.watch(lambda: self.end(0))
        self._exposure = asyncio.create_task(self._check_exposure())

    async def _check_exposure(self) -> None:
        """End with USAGE if Redis, which was away at start, has no API keys and other machines could ask."""
        try:
            await require_keys_later(self._app.settings, self._app.state.context.redis)
        except SettingsError as error:
            log.critical("%s", error)
            self.end(USAGE)

    async def _wait_tasks_to_complete(self) -> None:
        log.info("stopping; requests in progress have %.0f s to end (VQA_GATEWAY_DRAIN_S)", self._drain_s)
        self._exposure.cancel()
        state = self.server_state
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                while state.connections or state.tasks:
                    await asyncio.sleep(_LOOK_S)
        if cut_off := list(state.tasks):
            log.warning("%d requests did not end in time and are cut off", len(cut_off))
            for task in cut_off:
                task.cancel()
            await asyncio.wait(cut_off, timeout=_CUT_OFF_S)
        # of clients that do not read
        for connection in list(state.connections):
            connection.transport.abort()


def _config(app: GatewayApp, max_files: int) -> Config:
    config = Config(
        app,
        loop="uvloop",
        http=GatewayProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # who asks is told by the key; an address that a proxy claims is used for nothing
        proxy_headers=False,
        timeout_keep_alive=IDLE_S,
        backlog=2048,
    )
    config.max_connections = max(1, max_files - _OTHER_FILES)
    return config


def serve(settings: GatewaySettings, listening: socket.socket, max_files: int, lifeline: Lifeline) -> int:
    """Serve until a signal, or until the parent has ended; return the exit status. Raises SettingsError."""
    sys.setswitchinterval(_SWITCH_S)
    start_tracing("vqa-gateway", f"{socket.gethostname()}:{os.getpid()}")
    server = Server(create_app(settings=settings), max_files, lifeline)
    server.run([listening])
    return server.status
