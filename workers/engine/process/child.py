"""The process of an engine: `python -m workers.engine.process.child`, started by an `EngineProcess`.

It serves until its end of the link is closed, and ends at once then: prompts that are not answered are the worker's.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import sys
from importlib import import_module

from vqa.log.output import protect_output
from workers.child_process import inherited_link
from workers.engine.base import Engine
from workers.engine.process.frames import BrokenFrame, FrameReader
from workers.engine.process.messages import TO_CHILD, Start
from workers.engine.process.parent_death import die_with_parent
from workers.engine.process.server import Server
from workers.engine.settings import EngineSettings
from workers.log import set_up_logging

log = logging.getLogger(__name__)

#: Seconds after which threads that compute hand the interpreter to each other. The engine's thread gets it back so
#: much later after each kernel that it launches while others encode prompts or write answers; Python's 5 ms are as long
#: as a quarter of a decode step.
SWITCH_S = 0.0005


def main() -> int:
    """Serve an engine; return the exit status."""
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        # a signal to the whole container must not end this process: the worker still drains
        signal.signal(number, signal.SIG_IGN)
    protect_output()
    sys.setswitchinterval(SWITCH_S)
    link = inherited_link()
    assert link is not None
    try:
        _serve(link)
    except BrokenFrame as error:
        log.critical("the engine's process ends, its worker sent a broken frame: %s", error)
        return 1
    except Exception as error:
        log.critical("the engine's process ends", exc_info=error)
        return 1
    return 0


def _serve(link: socket.socket) -> None:
    if _is_closed(link):
        # before `die_with_parent`, so nothing else would end this process while it loads
        return
    reader = FrameReader(link)
    received = reader.read()
    if received is None:
        return
    start = TO_CHILD.decode(received[0])
    if not isinstance(start, Start):
        raise BrokenFrame(f"{start.kind} in place of start")
    set_up_logging(start.log_level)
    Server(_make_engine(start), link).serve(reader)


def _is_closed(link: socket.socket) -> bool:
    """Return whether the worker has closed its end; what it sent before may still be unread."""
    poll = select.poll()
    poll.register(link, 0)
    return bool(poll.poll(0))


def _make_engine(start: Start) -> Engine:
    """Import the engine and make it, without the garbage collector, which takes a sixth of the time for that.

    torch and transformers leave no garbage, but hundreds of thousands of objects that stay.
    """
    module, _, function = start.factory.partition(":")
    gc.disable()
    try:
        engine: Engine = getattr(import_module(module), function)(EngineSettings(**start.settings), start.slots)
    finally:
        gc.freeze()
        gc.enable()
    return engine


if __name__ == "__main__":
    status = main()
    protect_output().drain()
    # threads may be stuck in the model
    os._exit(status)
