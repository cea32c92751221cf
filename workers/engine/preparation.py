"""Encodes prompts in a few threads of its own, so that the card does not wait for it and a bad prompt is told at once.

A picture of a megapixel takes a processor 0.2 s. Each thread works on a tokenizer and a processor of its own: shared
by threads, a tokenizer comes back in the other thread's padding mode.
"""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

from transformers.pipelines.image_text_to_text import ImageTextToTextPipeline

from vqa.errors import EngineError, VQAError
from workers.engine.encoding import Encoder
from workers.engine.held import Held
from workers.engine.waiting import Ready, Waiting

_THREADS = 2


class Preparation:
    """From a prompt in hand to one that is ready to run."""

    def __init__(self, pipe: ImageTextToTextPipeline, slot_tokens: int, waiting: Waiting) -> None:
        self._waiting = waiting
        self._encoders: SimpleQueue[Encoder] = SimpleQueue()
        for _ in range(_THREADS):
            own: Any = copy.copy(pipe)
            own.processor = copy.deepcopy(pipe.processor)
            own.tokenizer = own.processor.tokenizer
            self._encoders.put(Encoder(own, slot_tokens))
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="encode")

    def prepare(self, held: Held) -> None:
        """Encode the prompt and let it wait for a replica, or settle it with what is wrong with it."""
        self._waiting.expect()
        try:
            self._pool.submit(self._prepare, held)
        except RuntimeError:
            # closed: whoever closes it settles what is held
            self._waiting.arrived(None)

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, held: Held) -> None:
        ready = None
        try:
            ready = None if held.settled else self._encode(held)
        finally:
            # counted whatever happened: a prompt that never arrives would hold every microbatch up
            self._waiting.arrived(ready)

    def _encode(self, held: Held) -> Ready | None:
        encoder = self._encoders.get()
        try:
            return Ready(held, encoder.encode(held.prompt))
        except VQAError as error:
            held.fail(error)
            return None
        except BaseException as error:
            # nobody reads this thread's future: the prompt would wait for its deadline
            held.fail(EngineError(f"preparing the prompt failed ({type(error).__name__})"))
            raise
        finally:
            self._encoders.put(encoder)
