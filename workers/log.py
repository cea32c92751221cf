"""How workers and their supervisor log: one line an event, on standard error."""

from __future__ import annotations

import logging
import socket

#: who warns with a traceback of what they go on from: a message put back, a broadcast that cannot be read
_VERBOSE = ("celery.app.trace", "kombu.transport.redis")


def set_up_logging(level: str) -> None:
    """Once a process, before anything is logged."""
    for name in _VERBOSE:
        logging.getLogger(name).addFilter(_in_one_line)
    # a remote control command that is none; anybody may send one
    logging.getLogger("celery.worker.pidbox").addFilter(_without_traceback)
    logging.getLogger("py.warnings").addFilter(_is_news)
    logging.basicConfig(level=level, format=f"%(asctime)s %(levelname)s {socket.gethostname()} %(name)s: %(message)s")


def _in_one_line(record: logging.LogRecord) -> bool:
    return record.levelno != logging.WARNING or _without_traceback(record)


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = record.exc_text = None
    return True


def _is_news(record: logging.LogRecord) -> bool:
    # eight lines at each lost connection, about a setting that is set
    return "worker_cancel_long_running_tasks_on_connection_loss" not in record.getMessage()
