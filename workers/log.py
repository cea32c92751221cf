"""Logging of workers and their supervisor: one line per event, on standard error, which never blocks or fails."""

from __future__ import annotations

import logging
import socket

from vqa.output import protect_output

#: loggers that add a traceback to warnings after which they go on: a rejected message, an unreadable broadcast
_VERBOSE = ("celery.app.trace", "kombu.transport.redis")

#: loggers that write at level DEBUG what users wrote: jobs inside of messages, headers of servers of images, texts in
#: images
_QUIET = ("celery.pool", "httpcore2", "PIL")


def set_up_logging(level: str) -> None:
    """Set up logging; call it once per process, before anything is logged."""
    protect_output()
    for name in _VERBOSE:
        logging.getLogger(name).addFilter(_shorten_warning)
    # logs remote control commands that it does not know, which anybody may send
    logging.getLogger("celery.worker.pidbox").addFilter(_remove_traceback)
    logging.getLogger("py.warnings").addFilter(_is_useful)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.basicConfig(level=level, format=f"%(asctime)s %(levelname)s {socket.gethostname()} %(name)s: %(message)s")


def _shorten_warning(record: logging.LogRecord) -> bool:
    return record.levelno != logging.WARNING or _remove_traceback(record)


def _remove_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = record.exc_text = None
    return True


def _is_useful(record: logging.LogRecord) -> bool:
    # eight lines at each lost connection, about a setting that is set
    return "worker_cancel_long_running_tasks_on_connection_loss" not in record.getMessage()
