"""Logging of workers and their supervisor: one line per event, on standard error, which never blocks or fails."""

from __future__ import annotations

import io
import logging
import re
import sys
from typing import TextIO

from vqa.log.format import is_json, set_up_root
from vqa.log.output import protect_output

log = logging.getLogger(__name__)

#: a bar of progress goes back to its line's beginning
_LINE_END = re.compile("[\r\n]")

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
    set_up_root(level, _original(sys.stderr))
    if is_json():
        # Celery says on one that it shuts down, transformers draws bars on the other
        sys.stdout = sys.__stdout__ = PrintedLines(_original(sys.stdout))  # type: ignore[misc, assignment]  # constants in typeshed
        sys.stderr = sys.__stderr__ = PrintedLines(_original(sys.stderr))  # type: ignore[misc, assignment]  # constants in typeshed


class PrintedLines(io.TextIOBase):
    """Standard output or error whose lines are logged, so that all that a process writes is JSON."""

    def __init__(self, original: TextIO) -> None:
        self.original = original
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = _LINE_END.split(self._rest + text)
        for line in filter(None, map(str.strip, lines)):
            log.info("%s", line)
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.original.fileno()


def _original(stream: TextIO) -> TextIO:
    """Return what log lines themselves are written to."""
    return stream.original if isinstance(stream, PrintedLines) else stream


def announce(text: str) -> None:
    """Tell what was decided at the start: on standard output whatever VQA_LOG_LEVEL is, or as a line of JSON."""
    if is_json():
        log.info("%s", text)
    else:
        print(text, flush=True)


def _shorten_warning(record: logging.LogRecord) -> bool:
    return record.levelno != logging.WARNING or _remove_traceback(record)


def _remove_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = record.exc_text = None
    return True


def _is_useful(record: logging.LogRecord) -> bool:
    # eight lines at each lost connection, about a setting that is set
    return "worker_cancel_long_running_tasks_on_connection_loss" not in record.getMessage()
