"""The parent's side of a child process that decodes images; the child's side is `workers.media.decoder_child`.

Encoded bytes and pixels go through an in-memory file that both have open: /dev/shm is too small in containers, and a
pipe would cost two more copies. Requests and replies go through a socket pair.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

from vqa.errors import BadImage
from workers.child_process import ChildProcess, describe_exit
from workers.engine.image import RGBImage
from workers.media.decoder_child import GO, SKIP, write_file
from workers.media.limits import ImageLimits
from workers.media.request import ImageRequest

#: limit for a child to become ready, from a slow disk too
_START_S = 60.0

#: a hanging child ends itself this long after its parent's timeout
_ALARM_S = 5

#: limit for a child to exit once its end of the link is closed
_END_S = 5.0

#: the in-memory file is emptied after an image that made it grow beyond this
_KEPT_BYTES = 8 * 2**20

#: prefixes of the variables that Python and Pillow may need; images come from strangers, so a child that reads them
#: gets no passwords or tokens
_PASSED_ON = ("PATH", "LANG", "LC_", "LD_", "DYLD_", "PYTHON", "TMPDIR", "MALLOC_")

#: glibc's malloc then keeps the memory of an image of a few megapixels for the next one: fresh memory for each costs
#: two fifths of the decoding time. 9 MB per child.
_ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(32 * 2**20)}

#: lets a file be decoded that needs so many bytes for so many images, when there is room for them
Admit = Callable[[int, int], AbstractContextManager[None]]


class NoMemory(Exception):
    """There is no memory for an image now, which need not be its own fault; `str()` says for what."""


class NotAdmitted(Exception):
    """Raised by `Admit` for a file that is not to be decoded; its child goes on with the next one."""


class DecoderExited(Exception):
    """The child exited without an answer; `str()` says how, such as `was killed by SIGSEGV`."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(describe_exit(status))


class DecoderProcess(ChildProcess):
    """One child. Only `kill` may be called by several threads at once."""

    def __init__(self, limits: ImageLimits, timeout_s: float) -> None:
        """Start the child, which is ready a tenth of a second later. `timeout_s` is for one image. Raises OSError."""
        self._ready = False
        self._timeout_s = timeout_s
        self._memory = _memory_file()
        numbers = (self._memory, math.ceil(timeout_s) + _ALARM_S)
        arguments = ["workers.media.decoder_child", *map(str, numbers), json.dumps(asdict(limits))]
        try:
            super().__init__(arguments, _environment(), pass_fds=[self._memory])
        except OSError:
            os.close(self._memory)
            raise
        self.link.settimeout(_START_S)

    def wait_ready(self) -> None:
        """Wait until the child can decode. Raises DecoderExited and TimeoutError."""
        if not self._ready:
            self._read_line()
            self.link.settimeout(self._timeout_s)
            self._ready = True

    def decode(self, data: bytes, request: ImageRequest, admit: Admit) -> tuple[RGBImage, ...]:
        """Decode the images of one file; the child must be ready.

        Raises BadImage, NoMemory, NotAdmitted, DecoderExited and TimeoutError, and what `admit` raises; end the child
        after all but the first three.
        """
        try:
            write_file(self._memory, data)
        except OSError as error:
            raise NoMemory(f"no memory for an encoded image ({error.strerror})") from None
        reply = self._ask(json.dumps({"bytes": len(data), **request.options}).encode() + b"\n")
        if "needed" in reply:
            reply = self._admitted(reply, admit)
        if "error" in reply:
            raise (BadImage if reply["error"] == BadImage.__name__ else NoMemory)(reply["message"])
        images, at = [], 0
        for fields in reply["images"]:
            size = fields["width"] * fields["height"] * 3
            images.append(RGBImage(pixels=os.pread(self._memory, size, at), **fields))
            at += size
        if max(len(data), at) > _KEPT_BYTES:
            os.ftruncate(self._memory, 0)
        return tuple(images)

    def _admitted(self, opened: dict[str, Any], admit: Admit) -> dict[str, Any]:
        try:
            with admit(opened["needed"], opened["count"]):
                return self._ask(GO)
        except NotAdmitted:
            self._send(SKIP)
            raise

    def end(self) -> None:
        super().end()
        os.close(self._memory)

    def _ask(self, line: bytes) -> dict[str, Any]:
        self._send(line)
        reply: dict[str, Any] = json.loads(self._read_line())
        return reply

    def _send(self, line: bytes) -> None:
        try:
            self.link.sendall(line)
        except ConnectionError:
            raise self._exited() from None

    def _read_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            try:
                received = self.link.recv(65_536)
            except ConnectionError:
                received = b""
            if not received:
                raise self._exited()
            line += received
        return line

    def _exited(self) -> DecoderExited:
        """Return the error for a child whose end of the link is closed."""
        if not self.wait(_END_S):
            self.kill()
            self.wait()
        assert self.status is not None
        return DecoderExited(self.status)


def _memory_file() -> int:
    """Open an unnamed file in memory, or a temporary one where the system has no memfd; return its descriptor."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("vqa-image")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _environment() -> dict[str, str]:
    passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    # the child imports from where this process does
    return _ALLOCATION | passed | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
