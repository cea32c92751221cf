"""Decodes images one at a time in a child process, and replaces the child when it dies.

Pillow's readers are C code that parses untrusted bytes. An image that crashes them, or makes them hang, costs one child
and fails that image only.
"""

from __future__ import annotations

import errno
import logging
import signal
import threading
from contextlib import AbstractContextManager, nullcontext

from vqa.errors import BadImage, EngineError
from workers.engine.image import RGBImage
from workers.media.decoder_child import CPU_S, CPU_S_PER_PIXEL
from workers.media.decoder_process import Admit, DecoderExited, DecoderProcess, NoMemory, NotAdmitted
from workers.media.limits import ImageLimits
from workers.media.request import ImageRequest

log = logging.getLogger(__name__)

#: limit for one image in a child that computes nothing; the limit for computing is the child's own
DECODE_TIMEOUT_S = 60.0

#: seconds after each try at an image whose child was killed or had no memory: a shortage passes, and what is left of
#: the tries shows that the image is its cause
_PAUSES_S = (0.1, 0.2, 0.4, 0.8, 1.6, 0.0)

#: a child that crashes by itself at an image a second time was crashed by the image
_MAX_CRASHES = 2

_TOO_DEAR = (
    f"decoding the image takes too long: the limit is {CPU_S:g} s of computing time, and "
    f"{CPU_S_PER_PIXEL * 1e6:g} s for each megapixel"
)


def _at_once(needed: int, count: int) -> AbstractContextManager[None]:
    return nullcontext()


class Decoder:
    """A child process and its replacements. Any thread may call `decode`; calls run one after another."""

    def __init__(self, limits: ImageLimits, timeout_s: float = DECODE_TIMEOUT_S) -> None:
        self._limits = limits
        self._timeout_s = timeout_s
        #: held while the child is used
        self._in_use = threading.Lock()
        #: held while a child is started or discarded, so that none starts once this is closed
        self._starting = threading.Lock()
        self._closing = threading.Event()
        self._child: DecoderProcess | None = None

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Start the child without waiting until it is ready. Raises EngineError."""
        with self._in_use:
            self._running_child()

    def wait_ready(self) -> None:
        """Wait until the child can decode. Raises EngineError."""
        with self._in_use:
            self._ready_child()

    def decode(self, data: bytes, admit: Admit = _at_once, request: ImageRequest | None = None) -> tuple[RGBImage, ...]:
        """Decode the images of a file, when `admit` lets it; `request` says which of them.

        Raises BadImage, also when the file crashes its child; NotAdmitted; EngineError. A child that is killed, as the
        kernel does where memory is short, is replaced and the file tried again.
        """
        with self._in_use:
            crashes, reason = 0, ""
            for pause_s in _PAUSES_S:
                try:
                    return self._decode(data, request or ImageRequest(data), admit)
                except NoMemory as error:
                    reason = str(error)
                except DecoderExited as exited:
                    if exited.status == -signal.SIGPROF:
                        raise BadImage(_TOO_DEAR) from None
                    reason = f"the process {exited}"
                    crashes += exited.status != -signal.SIGKILL
                if crashes == _MAX_CRASHES:
                    raise BadImage(f"the image crashed its decoder twice: {reason}")
                log.warning("image decoder: %s; the image is decoded again", reason)
                self._closing.wait(pause_s)
            raise EngineError(
                f"the machine may be out of memory: {len(_PAUSES_S)} tries at an image failed; last, {reason}"
            )

    def close(self) -> None:
        """End the child at once. Images being decoded, and later ones, fail with EngineError."""
        with self._starting:
            self._closing.set()
            if self._child is not None:
                self._child.kill()
        with self._in_use:
            self._discard_child()

    def _decode(self, data: bytes, request: ImageRequest, admit: Admit) -> tuple[RGBImage, ...]:
        child = self._ready_child()
        try:
            return child.decode(data, request, admit)
        except TimeoutError:
            self._discard_child()
            raise BadImage(f"decoding the image took over {self._timeout_s:g} s") from None
        except (NoMemory, BadImage, NotAdmitted):
            raise
        except BaseException:
            # it has exited, or waits for an image that was not admitted
            self._discard_child()
            self._raise_if_closed()
            raise

    def _ready_child(self) -> DecoderProcess:
        child = self._running_child()
        try:
            child.wait_ready()
        except (DecoderExited, TimeoutError) as error:
            self._discard_child()
            self._raise_if_closed()
            if isinstance(error, DecoderExited) and error.status == -signal.SIGKILL:
                raise
            raise EngineError(f"the image decoder process does not start: it {error}") from None
        return child

    def _running_child(self) -> DecoderProcess:
        if self._child is not None and self._child.ended:
            # it died between two images, so neither is the cause
            self._discard_child()
        with self._starting:
            self._raise_if_closed()
            if self._child is None:
                try:
                    self._child = DecoderProcess(self._limits, self._timeout_s)
                except OSError as error:
                    if error.errno in {errno.ENOMEM, errno.EAGAIN}:
                        raise NoMemory(f"cannot start an image decoder process: {error.strerror}") from None
                    raise EngineError(f"cannot start an image decoder process: {error.strerror}") from None
            return self._child

    def _discard_child(self) -> None:
        with self._starting:
            if self._child is not None:
                self._child.end()
                self._child = None

    def _raise_if_closed(self) -> None:
        if self._closing.is_set():
            raise EngineError("the worker is stopping")
