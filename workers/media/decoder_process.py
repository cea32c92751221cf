"""A child process that decodes images, from its start to its end; what it does is in `workers.media.decoder_child`.

Encoded bytes and pixels go through a file in memory that both have open: a container's /dev/shm is too small, and a
pipe would cost two more copies. What is said goes through a socket pair.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict

from vqa.errors import BadImage, EngineError
from workers.engine.image import RGBImage
from workers.media.decoder_child import fill
from workers.media.image import Limits

#: for a child to be ready, from a slow disk too
_START_S = 60.0

#: a child that hangs ends by itself so long after its owner's patience has
_ALARM_S = 5

#: for a child whose link has ended to be gone
_END_S = 5.0

#: a file in memory that has grown beyond this is emptied after the image
_KEPT_BYTES = 8 * 2**20

#: how the names begin of what Python and Pillow may need of the environment: images come from strangers, and a child
#: that reads them has no use for passwords and tokens
_PASSED_ON = ("PATH", "LANG", "LC_", "LD_", "DYLD_", "PYTHON", "TMPDIR", "MALLOC_")

#: glibc's malloc keeps what an image of a few megapixels took for the next one: to be given fresh memory each time is
#: two fifths of such an image's cost. 9 MB a child.
_ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(32 * 2**20)}

_ERRORS = {error.__name__: error for error in (BadImage, EngineError)}


class Ended(Exception):
    """The child is no more, and did not answer; in words, `was ended by SIGSEGV`."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"was ended by {_signal_name(-status)}" if status < 0 else f"ended with status {status}")


class DecoderProcess:
    """For one thread at a time, but for `kill`."""

    def __init__(self, limits: Limits, patience_s: float) -> None:
        """Start it; it takes a tenth of a second to be ready, and an image at most `patience_s`. Raises OSError."""
        self._ready = False
        self._patience_s = patience_s
        with ExitStack() as undone:
            self._memory = undone.enter_context(open(_memory_file(), "r+b", buffering=0))
            self._link, theirs = socket.socketpair()
            undone.enter_context(self._link)
            self._link.settimeout(_START_S)
            numbers = (theirs.fileno(), self._memory.fileno(), math.ceil(patience_s) + _ALARM_S)
            with theirs:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "workers.media.decoder_child",
                        *map(str, numbers),
                        json.dumps(asdict(limits)),
                    ],
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    pass_fds=numbers[:2],
                    # a Ctrl-C in the terminal is not for it
                    process_group=0,
                )
            undone.pop_all()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process is no more."""
        return self._process.poll() is not None

    def wait_ready(self) -> None:
        """Raises Ended, and TimeoutError."""
        if not self._ready:
            self._heard()
            self._link.settimeout(self._patience_s)
            self._ready = True

    def decode(self, data: bytes) -> RGBImage:
        """The image; it is ready. Raises BadImage, EngineError, Ended, and TimeoutError, after which it is to end."""
        memory = self._memory.fileno()
        try:
            fill(memory, data)
        except OSError as error:
            raise EngineError(f"there is no room for an image ({error.strerror})") from None
        answer = json.loads(self._asked(len(data)))
        if "error" in answer:
            raise _ERRORS[answer["error"]](answer["message"])
        pixels = os.pread(memory, answer["width"] * answer["height"] * 3, 0)
        if max(len(data), len(pixels)) > _KEPT_BYTES:
            os.ftruncate(memory, 0)
        return RGBImage(pixels=pixels, **answer)

    def kill(self) -> None:
        """For any thread: whoever waits for an answer gets Ended."""
        self._process.kill()

    def end(self) -> None:
        """End it as soon as the kernel can, and let go of all it had."""
        self._process.kill()
        self._process.wait()
        self._link.close()
        self._memory.close()

    def _asked(self, length: int) -> bytes:
        try:
            self._link.sendall(b"%d\n" % length)
        except ConnectionError:
            raise Ended(self._status()) from None
        return self._heard()

    def _heard(self) -> bytes:
        """The next line."""
        line = b""
        while not line.endswith(b"\n"):
            try:
                piece = self._link.recv(65_536)
            except ConnectionError:
                piece = b""
            if not piece:
                raise Ended(self._status())
            line += piece
        return line

    def _status(self) -> int:
        """How it ended, now that its end of the link is closed."""
        try:
            return self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _memory_file() -> int:
    """The number of a file of no name; of a temporary one where the system has none in memory."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("vqa-image")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _environment() -> dict[str, str]:
    passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    # it finds what this process finds
    return _ALLOCATION | passed | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
