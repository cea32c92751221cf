"""Small tensors on their way between host and device, without either waiting for the other."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy
import torch
from torch import Tensor

from workers.engine.continuous.lengths import Lengths
from workers.engine.continuous.ops.base import Spans


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device by the time that later work there needs it."""
    if device.type == "cpu":
        return tensor
    # pinned memory is given out again only when the copy is done: torch's host allocator sees to that
    return tensor.pin_memory().to(device, non_blocking=True)


def upload_bytes(parts: Sequence[bytes], device: torch.device) -> Sequence[Tensor]:
    """(n) uint8 each, on the device by the time that later work there needs them."""
    # Together, when they are needed: each new block of pinned memory takes CUDA milliseconds in which nothing can be
    # launched, and a block for each image that waits has stopped the card for 0.7 s.
    whole = torch.empty(sum(map(len, parts)), dtype=torch.uint8, pin_memory=device.type == "cuda")
    numpy.concatenate([numpy.frombuffer(part, numpy.uint8) for part in parts], out=whole.numpy())
    return torch.split(whole.to(device, non_blocking=True), [len(part) for part in parts])


def numbers(values: Sequence[int], device: torch.device) -> Tensor:
    """(n) int64 on the device."""
    return upload(torch.tensor(values, dtype=torch.int64), device)


def spans_of(lengths: Sequence[int], device: torch.device, common: Lengths | None = None) -> Spans:
    """The spans of sequences that follow each other; `common` counts their lengths."""
    starts = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
    runs = common.runs(lengths) if common is not None else ()
    return Spans(upload(starts, device), max(lengths), tuple(lengths), runs)


class Tokens:
    """Tokens that the device will have made; `read` waits for them."""

    def __init__(self, made: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._made_at = time.perf_counter()
        self._host = made
        if made.is_cuda:
            # a copy to memory that is not pinned would wait for the card
            self._host = torch.empty(made.shape, dtype=made.dtype, pin_memory=True)
            self._host.copy_(made, non_blocking=True)
            # one that blocks: a thread that spins would take the interpreter's processor from the others
            self._event = torch.cuda.Event(blocking=True, enable_timing=True)
            self._event.record()

    def seconds_after(self, before: Tokens) -> float:
        """From when those were made to when these were; both have been read."""
        if self._event is None or before._event is None:
            return self._made_at - before._made_at
        return float(before._event.elapsed_time(self._event)) / 1000

    def read(self) -> list[int]:
        """One token a row."""
        if self._event is not None:
            self._event.synchronize()
        tokens: list[int] = self._host.tolist()
        return tokens
