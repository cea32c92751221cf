"""Decodes images one after another in a child process, and goes on in another one where that has died.

Pillow's readers are C and are fed by strangers: what crashes them, or makes them hang, costs a child and fails that one
image.
"""

from __future__ import annotations

import logging
import signal
import threading

from vqa.errors import BadImage, EngineError
from workers.engine.image import RGBImage
from workers.media.decoder_process import DecoderProcess, Ended
from workers.media.image import Limits

log = logging.getLogger(__name__)

#: an image that takes longer is refused; fifty megapixels take two
PATIENCE_S = 60.0


class Decoder:
    """A child, and its successors. `decode` may be called by any thread but waits for its turn."""

    def __init__(self, limits: Limits, patience_s: float = PATIENCE_S) -> None:
        self._limits = limits
        self._patience_s = patience_s
        #: held while the child is used
        self._turn = threading.Lock()
        #: held while a child is started, so that none is once this is closed
        self._starting = threading.Lock()
        self._closed = False
        self._child: DecoderProcess | None = None

    @property
    def pid(self) -> int | None:
        """The child's id."""
        return self._child.pid if self._child else None

    def begin(self) -> None:
        """Start the child, which takes a moment. Raises EngineError."""
        with self._turn:
            self._living()

    def wait_ready(self) -> None:
        """Until the child can decode. Raises EngineError."""
        with self._turn:
            self._ready()

    def decode(self, data: bytes) -> RGBImage:
        """The image. Raises BadImage, also where its child dies of it or hangs, and EngineError."""
        with self._turn:
            try:
                return self._decode(data)
            except Ended as death:
                log.warning("the process that decodes images %s; another one tries this image again", death)
            try:
                return self._decode(data)
            except Ended as death:
                if death.status == -signal.SIGKILL:
                    # the kernel takes memory back in this way, and whose fault it is nobody knows
                    raise EngineError("the image's decoder was killed twice; the machine may lack memory") from None
                raise BadImage(f"the image's decoder crashed on it twice: it {death}") from None

    def close(self) -> None:
        """End the child whatever it is at: what is being decoded, or will be, fails with EngineError."""
        with self._starting:
            self._closed = True
            if self._child is not None:
                self._child.kill()
        with self._turn:
            self._drop()

    def _decode(self, data: bytes) -> RGBImage:
        child = self._ready()
        try:
            return child.decode(data)
        except TimeoutError:
            self._drop()
            raise BadImage(f"decoding the image took over {self._patience_s:g} s") from None
        except Ended:
            self._drop()
            self._refuse_when_closed()
            raise

    def _ready(self) -> DecoderProcess:
        child = self._living()
        try:
            child.wait_ready()
        except (Ended, TimeoutError) as error:
            self._drop()
            self._refuse_when_closed()
            raise EngineError(f"the process that decodes images does not start: it {error}") from None
        return child

    def _living(self) -> DecoderProcess:
        if self._child is not None and self._child.ended:
            # between two images: neither is to blame
            self._drop()
        with self._starting:
            self._refuse_when_closed()
            if self._child is None:
                try:
                    self._child = DecoderProcess(self._limits, self._patience_s)
                except OSError as error:
                    raise EngineError(f"no process can be started to decode images: {error.strerror}") from None
            return self._child

    def _drop(self) -> None:
        with self._starting:
            if self._child is not None:
                self._child.end()
                self._child = None

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise EngineError("the worker is stopping")
