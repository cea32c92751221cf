"""Encodes prompts in a few threads of its own, so that the card does not wait for it and a bad prompt is told at once.

An image of a megapixel takes a processor 0.2 s. Each thread works on a tokenizer and a processor of its own: shared
by threads, a tokenizer comes back in the other thread's padding mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Generic, TypeVar

from vqa.errors import EngineError, VQAError
from workers.engine.runtime.pending import Pending
from workers.engine.text.chat import ChatEncoder

#: encoders, and so threads, that an engine has
THREADS = 2

Made = TypeVar("Made")


class EncoderPool(Generic[Made]):
    """From a prompt in hand to one that is ready to run."""

    def __init__(
        self,
        encoders: Sequence[ChatEncoder[Made]],
        expect: Callable[[], None],
        deliver: Callable[[Pending, Made | None], None],
    ) -> None:
        """Each encoder has a tokenizer of its own.

        For each prompt `expect` is called, and later `deliver`, with None where the prompt ended on the way.
        """
        self._expect, self._deliver = expect, deliver
        self._encoders: SimpleQueue[ChatEncoder[Made]] = SimpleQueue()
        for encoder in encoders:
            self._encoders.put(encoder)
        self._pool = ThreadPoolExecutor(len(encoders), thread_name_prefix="encode")

    def submit(self, pending: Pending) -> None:
        """Encode the prompt and deliver it, or settle it with what is wrong with it."""
        self._expect()
        try:
            self._pool.submit(self._run, pending)
        except RuntimeError:
            # closed: whoever closes it settles what is held
            self._deliver(pending, None)

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, pending: Pending) -> None:
        made = None
        try:
            made = None if pending.settled else self._encode(pending)
        finally:
            # counted whatever happened: a prompt that never arrives would hold every microbatch up
            self._deliver(pending, made)

    def _encode(self, pending: Pending) -> Made | None:
        encoder = self._encoders.get()
        try:
            return encoder.encode(pending.prompt)
        except VQAError as error:
            pending.fail(error)
            return None
        except BaseException as error:
            # nobody reads this thread's future: the prompt would wait for its deadline
            pending.fail(EngineError(f"preparing the prompt failed ({type(error).__name__})"))
            raise
        finally:
            self._encoders.put(encoder)
