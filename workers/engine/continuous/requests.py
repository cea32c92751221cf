"""A tokenized prompt with its M-RoPE positions and the pixels of its images."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from torch import Tensor

from workers.engine.base import SamplingParams
from workers.engine.runtime.pending import Pending
from workers.engine.text.guide import Guide, max_tokens


@dataclass(frozen=True, slots=True, eq=False)
class ImageSpan:
    """An image, or frames of a video that become one, and its place in a prompt."""

    #: of the image, or of each frame: RGB, row by row, height x width x 3 bytes
    pixels: tuple[bytes, ...]
    #: patches from top to bottom and from left to right
    rows: int
    columns: int
    #: its first token in the prompt, and the number of its tokens
    start: int
    tokens: int
    #: of the pixels, after the prompt's salt: the key under which features are kept
    digest: str

    @property
    def patches(self) -> int:
        """Patches that the vision tower computes; several make one token."""
        return self.rows * self.columns

    @property
    def stop(self) -> int:
        """The prompt's first token after the image."""
        return self.start + self.tokens


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """An encoded prompt, on the host."""

    #: (n) int64
    tokens: Tensor
    #: (n, 3) int64: time, height and width
    positions: Tensor
    images: tuple[ImageSpan, ...]
    params: SamplingParams
    #: None without a grammar
    guide: Guide | None = None
    #: of its full blocks, to find them in the KV cache (`prefix.block_hashes`); none without a prefix cache
    block_hashes: tuple[bytes, ...] = ()

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def max_tokens(self) -> int:
        """The most tokens of its thought and answer."""
        return max_tokens(self.params.max_new_tokens, self.guide)

    @property
    def mrope_delta(self) -> int:
        """Position minus index of answer tokens (transformers' `rope_deltas`): images span few positions."""
        return int(self.positions.max()) + 1 - self.num_tokens


class Intake:
    """Queue of encoded prompts from any thread to the engine's thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._new: list[tuple[Pending, Request]] = []
        self._closed = False

    def put(self, pending: Pending, request: Request) -> None:
        with self._changed:
            self._new.append((pending, request))
            self._changed.notify()

    def close(self) -> None:
        """Make every `take` return None from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def take(self, wait: bool) -> list[tuple[Pending, Request]] | None:
        """Return the prompts queued since the last call, None when closed. With `wait`, block until there is one."""
        with self._changed:
            while wait and not self._new and not self._closed:
                self._changed.wait()
            new, self._new = self._new, []
            return None if self._closed else new
