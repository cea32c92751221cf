"""Prompts of large images, to measure how much memory a prefill takes at most."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from vqa.images.fit import Fit
from workers.engine.base import SamplingParams
from workers.engine.continuous.encode import mrope_positions
from workers.engine.continuous.requests import ImageSpan, Request
from workers.engine.continuous.sequence import Chunk, Sequence


@dataclass(frozen=True, slots=True)
class TrialPrompts:
    """Makes prompts of one square image of the largest size of a fit."""

    fit: Fit
    patch: int
    merge: int
    block_size: int

    @property
    def _side(self) -> int:
        return int(self.fit.max_pixels**0.5) // self.fit.factor * self.fit.factor

    @property
    def _length(self) -> int:
        return self.fit.tokens(self._side, self._side) + 2

    def largest(self, tokens: int) -> list[Chunk]:
        """Return chunks of `tokens` tokens in all, for which one image more has to be encoded than they hold.

        One more, because a chunk may begin and end within an image, whose features are computed whole.
        """
        count = -(-tokens // self._length) + 1
        lengths: list[int] = []
        for number in range(count):
            # each of the others has at least one token of its image
            lengths.append(min(self._length, tokens - sum(lengths) - 2 * (count - number - 1)))
        return self._chunks(lengths)

    def whole(self, tokens: int) -> list[Chunk]:
        """Return chunks that are whole prompts, of `tokens` tokens at most, but at least one."""
        return self._chunks([self._length] * max(1, tokens // self._length))

    def _chunks(self, lengths: abc.Sequence[int]) -> list[Chunk]:
        rows, used = self._side // self.patch, 0
        pixels, positions = bytes(self._side**2 * 3), self._positions(rows // self.merge)
        chunks: list[Chunk] = []
        for number, length in enumerate(lengths):
            image = ImageSpan((pixels,), rows, rows, 1, self._length - 2, f"{self._side} {number}")
            tokens = torch.zeros(self._length, dtype=torch.int64)
            request = Request(tokens, positions, (image,), SamplingParams(1))
            blocks = tuple(range(used, used - (-length // self.block_size)))
            used += len(blocks)
            chunks.append(Chunk(Sequence(self._length, 1, request=request, slot=number, blocks=blocks), 0, length))
        return chunks

    def _positions(self, side: int) -> Tensor:
        return mrope_positions(self._length, [(1, side, side)])
