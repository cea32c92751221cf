"""The order of pairs by expert for the grouped products of many tokens (as vLLM's moe_align_block_size makes it).

A pair is a token and one of its experts. Each expert's pairs are consecutive in the order; a block is up to `lines` of
them, and a tile of a product has the lines of one block.
"""

# Triton has no types
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """Everything is int32 and on the card, so that no size depends on the experts that were drawn."""

    #: lines of a block
    lines: int
    #: (pairs): maps a place in the order to a pair; pairs of one expert stay in theirs
    pairs: Tensor
    #: (T, k): maps a pair to its place
    places: Tensor
    #: (3, experts): where an expert's pairs begin, where they end, and its first block
    spans: Tensor
    #: (pairs / lines + experts): the expert of a block, or the number of experts where there is none
    blocks: Tensor
    #: (2, 4): counters, 0 at [:, 0], for two products whose programs draw their tiles; 16 bytes each
    drawn: Tensor


# by value, each number of pairs that is a multiple of 16 would be compiled on its own
@triton.jit(do_not_specialize=["pairs"])
def _order_kernel(
    chosen, order, places, spans, blocks, drawn, pairs,
    EXPERTS: tl.constexpr, LINES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Place one expert's pairs. Each program reads all of `chosen`, and so needs to hear nothing from the others."""
    expert = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    before = tl.zeros([BLOCK], dtype=tl.int32)
    own = tl.zeros([BLOCK], dtype=tl.int32)
    for start in range(0, pairs, BLOCK):
        number = tl.load(chosen + start + at, mask=start + at < pairs, other=EXPERTS)
        before += tl.where(number < expert, 1, 0)
        own += tl.where(number == expert, 1, 0)
    begin, count = tl.sum(before, axis=0), tl.sum(own, axis=0)
    # whatever experts come before, they have used no block from this one on
    first = begin // LINES + expert
    until = (begin + count) // LINES + expert + 1
    if expert == 0:
        tl.store(drawn + tl.arange(0, 8), tl.zeros([8], dtype=tl.int32))
    tl.store(spans + expert, begin)
    tl.store(spans + EXPERTS + expert, begin + count)
    tl.store(spans + 2 * EXPERTS + expert, first)
    for start in range(first, until, BLOCK):
        kind = tl.where(start + at < first + tl.cdiv(count, LINES), expert, EXPERTS)
        tl.store(blocks + start + at, kind, mask=start + at < until)
    for start in range(0, pairs, BLOCK):
        mine = tl.load(chosen + start + at, mask=start + at < pairs, other=EXPERTS) == expert
        rank = tl.cumsum(tl.where(mine, 1, 0), axis=0)
        tl.store(order + begin + rank - 1, start + at, mask=mine)
        tl.store(places + start + at, begin + rank - 1, mask=mine)
        begin += tl.max(rank, axis=0)


def order_of(chosen: Tensor, experts: int, lines: int) -> Order:
    """Sort the pairs of `chosen` (T, k) by expert, in blocks of `lines`."""
    pairs = chosen.numel()
    sizes = [pairs, 3 * experts, 8, pairs // lines + experts]
    order, spans, drawn, blocks = torch.empty(sum(sizes), dtype=torch.int32, device=chosen.device).split(sizes)
    places = torch.empty_like(chosen)
    block = 1024 if pairs <= 1024 else 4096 if pairs <= 16384 else 8192
    _order_kernel[(experts,)](
        chosen, order, places, spans, blocks, drawn, pairs,
        EXPERTS=experts, LINES=lines, BLOCK=block, num_warps=block // 512,
    )  # fmt: skip
    return Order(lines, order, places, spans.view(3, experts), blocks, drawn.view(2, 4))
