"""Encodes prompts in threads of its own: the card does not wait for it, and invalid prompts fail at once.

A processor takes 0.2 s for an image of one megapixel. Each thread has its own processor and tokenizer, because a
shared tokenizer may return in another thread's padding mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Generic, TypeVar

from vqa.errors import EngineError, VQAError
from workers.engine.runtime.pending import Pending
from workers.engine.text.chat import ChatEncoder, HasGuide

#: threads of an engine, each with an encoder
THREADS = 2

Inputs = TypeVar("Inputs", bound=HasGuide)


class EncoderPool(Generic[Inputs]):
    """Encodes pending prompts in the background."""

    def __init__(
        self,
        encoders: Sequence[ChatEncoder[Inputs]],
        expect: Callable[[], None],
        deliver: Callable[[Pending, Inputs | None], None],
    ) -> None:
        """Start a thread per encoder; encoders must not share a tokenizer.

        For each prompt, `expect` is called first and `deliver` later, with None if the prompt was settled meanwhile.
        """
        self._expect, self._deliver = expect, deliver
        self._encoders: SimpleQueue[ChatEncoder[Inputs]] = SimpleQueue()
        for encoder in encoders:
            self._encoders.put(encoder)
        self._pool = ThreadPoolExecutor(len(encoders), thread_name_prefix="encode")

    def submit(self, pending: Pending) -> None:
        """Encode the prompt and deliver its inputs, or fail it."""
        self._expect()
        try:
            self._pool.submit(self._run, pending)
        except RuntimeError:
            # the pool is closed; its engine fails the pending prompts
            self._deliver(pending, None)

    def close(self) -> None:
        """Drop the prompts that wait to be encoded."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, pending: Pending) -> None:
        inputs = None
        try:
            inputs = None if pending.settled else self._encode(pending)
        finally:
            # in any case: every microbatch waits for the prompts that it expects
            self._deliver(pending, inputs)

    def _encode(self, pending: Pending) -> Inputs | None:
        encoder = self._encoders.get()
        try:
            return encoder.encode(pending.prompt)
        except VQAError as error:
            pending.fail(error)
            return None
        except BaseException as error:
            # this future is never read, so without `fail` the prompt would wait for its deadline
            pending.fail(EngineError(f"encoding the prompt failed ({type(error).__name__})"))
            raise
        finally:
            self._encoders.put(encoder)
