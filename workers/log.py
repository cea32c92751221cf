"""How workers and their supervisor log: one line an event, on standard error."""

from __future__ import annotations

import logging
import socket


class NoBodies(logging.Filter):
    """Of a foreign message that Celery cannot use it logs headers and body, a user's words: what happened is kept."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record through, without those."""
        if record.levelno >= logging.ERROR and "body" in str(record.msg):
            record.msg = f"a foreign message is dropped: {str(record.msg).splitlines()[0].partition('%')[0].strip()}"
            record.args, record.exc_info, record.exc_text = (), None, None
        return True


def set_up_logging(level: str) -> None:
    """Once a process, before anything is logged."""
    logging.getLogger("celery.worker.consumer.consumer").addFilter(NoBodies())
    logging.basicConfig(level=level, format=f"%(asctime)s %(levelname)s {socket.gethostname()} %(name)s: %(message)s")
