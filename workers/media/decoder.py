"""Decodes images one at a time in a child process, and replaces the child when it dies.

Pillow's readers are C code that parses untrusted bytes. An image that crashes them, or makes them hang, costs one child
and fails that image only.
"""

from __future__ import annotations

import logging
import signal
import threading

from vqa.errors import BadImage, EngineError
from workers.engine.image import RGBImage
from workers.media.decoder_process import DecoderExited, DecoderProcess
from workers.media.image import ImageLimits

log = logging.getLogger(__name__)

#: limit for one image; fifty megapixels take two seconds
DECODE_TIMEOUT_S = 60.0


class Decoder:
    """A child process and its replacements. Any thread may call `decode`; calls run one after another."""

    def __init__(self, limits: ImageLimits, timeout_s: float = DECODE_TIMEOUT_S) -> None:
        self._limits = limits
        self._timeout_s = timeout_s
        #: held while the child is used
        self._in_use = threading.Lock()
        #: held while a child is started or discarded, so that none starts once this is closed
        self._starting = threading.Lock()
        self._closed = False
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

    def decode(self, data: bytes) -> RGBImage:
        """Decode an image. Raises BadImage, also when the image crashes or hangs its child, and EngineError."""
        with self._in_use:
            try:
                return self._decode(data)
            except DecoderExited as exited:
                log.warning("the image decoder process %s; retrying the image in a new one", exited)
            try:
                return self._decode(data)
            except DecoderExited as exited:
                if exited.status == -signal.SIGKILL:
                    # the kernel's out-of-memory killer does this, and the image need not be the cause
                    raise EngineError("the image decoder was killed twice; the machine may be out of memory") from None
                raise BadImage(f"the image crashed its decoder twice: the process {exited}") from None

    def close(self) -> None:
        """End the child at once. Images being decoded, and later ones, fail with EngineError."""
        with self._starting:
            self._closed = True
            if self._child is not None:
                self._child.kill()
        with self._in_use:
            self._discard_child()

    def _decode(self, data: bytes) -> RGBImage:
        child = self._ready_child()
        try:
            return child.decode(data)
        except TimeoutError:
            self._discard_child()
            raise BadImage(f"decoding the image took over {self._timeout_s:g} s") from None
        except DecoderExited:
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
                    raise EngineError(f"cannot start an image decoder process: {error.strerror}") from None
            return self._child

    def _discard_child(self) -> None:
        with self._starting:
            if self._child is not None:
                self._child.end()
                self._child = None

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise EngineError("the worker is stopping")
