"""Starts the gateway in one process or several; run as a program, it is one of several."""

from __future__ import annotations

import logging
import signal
import socket
import sys

from producer.gateway.access.exposure import require_keys
from producer.gateway.process.lifeline import Lifeline
from producer.gateway.process.listening import bind, raise_file_limit, url_of
from producer.gateway.process.supervisor import Processes
from producer.process import INTERRUPTED, USAGE, Stopped
from vqa.errors import SettingsError
from vqa.gateway_settings import FilesSettings, GatewaySettings
from vqa.log.format import LogSettings, set_up_root
from vqa.log.output import protect_output
from vqa.metrics.server import require_package
from vqa.settings import QueueSettings
from vqa.tracing.settings import exporter

log = logging.getLogger(__name__)


def run_gateway() -> int:
    """Serve until a signal; return the exit status. Raises SettingsError."""
    settings, queue_settings = GatewaySettings(), QueueSettings()
    # read where it is used, but wrong values end the gateway before it listens
    FilesSettings()
    if settings.metrics_key is not None:
        require_package("VQA_GATEWAY_METRICS_KEY")
    LogSettings()
    exporter()
    require_keys(settings, queue_settings)
    listening = bind(settings)
    set_up_logging()
    if not settings.takes_anybody:
        log.info("an API key is required")
    log.info("listening on %s for the queue on %s", url_of(listening), queue_settings.address.where)
    try:
        if settings.processes > 1:
            return Processes(settings, listening).run()
        return _serve(settings, listening, Lifeline())
    except Stopped as stopped:
        # before anything is served; afterwards signals are the server's
        return INTERRUPTED if stopped.number == signal.SIGINT else 0


def _serve(settings: GatewaySettings, listening: socket.socket, lifeline: Lifeline) -> int:
    # here, as the parent of several processes serves nothing
    from producer.gateway.process.server import serve

    return serve(settings, listening, raise_file_limit(), lifeline)


def set_up_logging() -> None:
    """Log to standard error, which never blocks the event loop."""
    protect_output()
    set_up_root(logging.INFO)
    # our own lines tell of starts and ends; anybody could fill the log with its warnings about invalid requests
    uvicorn = logging.getLogger("uvicorn.error")
    uvicorn.setLevel(logging.ERROR)
    uvicorn.addFilter(_is_not_logged_yet)
    # its warnings about invalid forms are for the form's sender
    logging.getLogger("python_multipart").setLevel(logging.ERROR)


def _is_not_logged_yet(record: logging.LogRecord) -> bool:
    # of a response that `UnexpectedErrors` has cut off and logged
    return "returned without completing response" not in record.getMessage()


def main(arguments: list[str]) -> int:
    """Serve on the socket that the parent has bound, whose descriptor is the argument."""
    [descriptor] = arguments
    set_up_logging()
    try:
        return _serve(GatewaySettings(), socket.socket(fileno=int(descriptor)), Lifeline.inherited())
    except SettingsError as error:
        log.critical("%s", error)
        return USAGE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
