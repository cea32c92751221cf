"""How much of a card is left for the cache, measured: what prefill takes at most is taken once and given back."""

from __future__ import annotations

from collections.abc import Callable

import torch

from workers.engine.continuous.positions import positions_of
from workers.engine.continuous.prefill import Piece
from workers.engine.continuous.requests import Request, Sight
from workers.engine.picture import Fit
from workers.memory import machine_free

#: for the graphs' own memory, what lies idle between blocks, and the libraries'
_MARGIN_BYTES = 2 * 2**30

#: bytes a token of the vocabulary and row: what drawing needs (`sampling.draw`: floats, sorted, numbers, sums)
_DRAWING_BYTES = 36

#: of the machine's memory that nobody uses, where there is no card
_CPU_PART = 0.25


def room_bytes(device: torch.device, trial: Callable[[], int], drawing_elements: int, kept_bytes: int) -> int:
    """Bytes for the cache on this device. `trial` is the largest prefill that there may be; it tells its cache's bytes.

    `drawing_elements` are rows x vocabulary, `kept_bytes` what else will be kept. May be negative.
    """
    if device.type == "cpu":
        return int(machine_free() * _CPU_PART)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    own = trial()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before - own
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    # blocks of many sizes do not lie as close as those of one prefill
    return int(free - 1.15 * peak - drawing_elements * _DRAWING_BYTES - kept_bytes - _MARGIN_BYTES)


def largest_prefill(tokens: int, fit: Fit, patch: int, merge: int, page_tokens: int) -> list[Piece]:
    """Pieces of a picture more than so many tokens, nearly all of them pictures' of the largest size."""
    side = int(fit.most**0.5) // fit.factor * fit.factor
    rows = side // patch
    pieces: list[Piece] = []
    used = 0
    # one picture more than fit: a piece may begin and end within pictures
    while sum(piece.stop for piece in pieces[1:]) < tokens:
        sight = Sight(bytes(side * side * 3), rows, rows, 1, (rows // merge) ** 2, str(used))
        count = sight.tokens + 2
        positions = positions_of(count, [(1, rows // merge, rows // merge)])
        request = Request(torch.zeros(count, dtype=torch.int64), positions, (sight,))
        pages = tuple(range(used, used - (-count // page_tokens)))
        used += len(pages)
        pieces.append(Piece(request, 0, pages, 0, count))
    return pieces
