"""Copies of small tensors between host and device that make neither wait for the other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import accumulate, chain

import numpy
import torch
from torch import Tensor

from workers.engine.continuous.lengths import Lengths
from workers.engine.continuous.ops.base import Spans
from workers.engine.continuous.ops.image_tiles import image_tiles


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to the device, asynchronously: later work on the device finds the data there."""
    if device.type == "cpu":
        return tensor
    # torch's host allocator reuses pinned memory only after the copy has finished
    return tensor.pin_memory().to(device, non_blocking=True)


def upload_bytes(parts: Sequence[bytes], device: torch.device) -> Sequence[Tensor]:
    """Copy to the device, asynchronously; (n) uint8 each."""
    # All at once, and only when needed: each new block of pinned memory costs CUDA milliseconds in which nothing can be
    # launched. One block per waiting image once stopped the card for 0.7 s.
    whole = torch.empty(sum(map(len, parts)), dtype=torch.uint8, pin_memory=device.type == "cuda")
    numpy.concatenate([numpy.frombuffer(part, numpy.uint8) for part in parts], out=whole.numpy())
    return torch.split(whole.to(device, non_blocking=True), [len(part) for part in parts])


def numbers(values: Sequence[int], device: torch.device) -> Tensor:
    """Return (n) int64 on the device, copied asynchronously."""
    return upload(torch.tensor(values, dtype=torch.int64), device)


def spans_of(lengths: Sequence[int], device: torch.device, common: Lengths | None = None) -> Spans:
    """Return the spans of consecutive sequences, whose lengths `common` counts."""
    starts = [0, *accumulate(lengths)]
    tiles = image_tiles(lengths)
    # one copy for both
    both = upload(torch.tensor([*starts, *chain.from_iterable(tiles)], dtype=torch.int32), device)
    are_common = common is not None and common.are_common(lengths)
    cu_seqlens, rest = both.split([len(starts), 3 * len(tiles)])
    return Spans(cu_seqlens, max(lengths), tuple(lengths), rest.view(-1, 3), are_common)


class AsyncTokens:
    """Tokens on their way from the device to the host, and tensors that belong to them."""

    def __init__(self, tokens: Tensor, others: Sequence[Tensor] = ()) -> None:
        """Start the copies of `tokens` (n) and `others`."""
        self._event: torch.cuda.Event | None = None
        self._made_at = time.perf_counter()
        self._host = _download(tokens)
        #: on the host; their numbers are there once `read` has returned
        self.others = tuple(map(_download, others))
        if tokens.is_cuda:
            # blocking: a spinning thread would take processor time from the other threads
            self._event = torch.cuda.Event(blocking=True, enable_timing=True)
            self._event.record()

    def seconds_after(self, before: AsyncTokens) -> float:
        """Return the time from when `before` was computed to when these were; both must have been read."""
        if self._event is None or before._event is None:
            return self._made_at - before._made_at
        return float(before._event.elapsed_time(self._event)) / 1000

    def read(self) -> list[int]:
        """Wait for the device and return one token per row."""
        if self._event is not None:
            self._event.synchronize()
        tokens: list[int] = self._host.tolist()
        return tokens


def _download(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor
    # a copy to unpinned memory would wait for the device
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
