"""The prompts that the engine's process was given and that are not settled."""

from __future__ import annotations

import itertools
import threading
from functools import partial

from pydantic_core import PydanticSerializationError

from vqa.errors import InvalidJob
from workers.engine.base import Prompt
from workers.engine.image import RGBImage
from workers.engine.process.frames import frame
from workers.engine.process.messages import TO_CHILD, Cancel, Release, Submit, ToChild
from workers.engine.process.outbox import Outbox
from workers.engine.process.sent_images import SentImages
from workers.engine.runtime.pending import Pending


class SentPrompts:
    """Prompts by number, and their images. Thread-safe."""

    def __init__(self, outbox: Outbox[tuple[bytes, ...]]) -> None:
        self._outbox = outbox
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._images = SentImages()
        self._pending: dict[int, Pending] = {}

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all prompts: any of them may be in a slot."""
        with self._lock:
            return tuple(pending.prompt.id for pending in self._pending.values())

    def send(self, pending: Pending) -> None:
        """Send the prompt, and its images unless they are there. If it is settled here first, it is cancelled there."""
        prompt = pending.prompt
        images = _images(prompt)
        with self._lock:
            number = next(self._numbers)
            self._pending[number] = pending
            # in this order also among threads: an image goes before every prompt with it
            for buffers in self._images.use(images):
                self._outbox.put(buffers)
            message = self._message(number, prompt)
        try:
            self._put(message)
        except PydanticSerializationError:
            # jobs cannot have one
            pending.fail(InvalidJob("the text contains a lone surrogate, which is not a character"))
        pending.future.add_done_callback(partial(self._settled, number))

    def get(self, number: int) -> Pending | None:
        """Return a prompt, or None if it is settled."""
        with self._lock:
            return self._pending.get(number)

    def take(self, number: int) -> Pending | None:
        """Remove a prompt and return it, or None if it is settled."""
        with self._lock:
            pending = self._pending.pop(number, None)
            unused = self._images.release(_images(pending.prompt)) if pending else ()
            if unused:
                # before another thread sends one of them anew
                self._put(Release(unused))
        return pending

    def _settled(self, number: int, _: object) -> None:
        if self.take(number) is not None:
            self._put(Cancel(number))

    def _put(self, message: ToChild) -> None:
        self._outbox.put(frame(TO_CHILD.encode(message)))

    def _message(self, number: int, prompt: Prompt) -> Submit:
        return Submit(
            number,
            prompt.id,
            tuple(map(self._images.turn, prompt.turns)),
            prompt.params,
            prompt.lane,
            prompt.deadline,
            prompt.attempt,
            prompt.metadata,
            prompt.alone,
            prompt.cache_salt,
            streams=prompt.on_text is not None,
        )


def _images(prompt: Prompt) -> list[RGBImage]:
    return prompt.images + [frame for video in prompt.videos for frame in video.frames]
