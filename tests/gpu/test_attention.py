"""Attention on a card against the plain one: decode rows, chunks of prompts, images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.gpu.conftest import BLOCK, CARD, ERRORS, Draw, assert_close, each_dtype, each_shape
from workers.engine.continuous.lengths import Lengths
from workers.engine.continuous.ops import reference
from workers.engine.continuous.ops.base import Spans
from workers.engine.continuous.transfer import spans_of

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

#: columns of a block table, far more than most sequences need
COLUMNS = 256

#: what rows that are not to be written hold before
UNTOUCHED = 7.0

LENGTHS = [
    ((300, 17, 1024, 1), (0, 0, 0, 0)),
    ((300, 17, 0, 1023, 64), (200, 0, 9, 1976, 64)),
    ((1,), (5000,)),
    ((2048,), (0,)),
    ((26,) * 70, (768,) * 70),
    ((1, 0, 2, 0) * 64, (90, 0, 63, 0) * 64),
    ((0,) * 4, (0,) * 4),
]
LENGTH_IDS = ["whole", "chunks", "one-token", "one-prompt", "questions", "more-than-programs", "empty"]


@dataclass(frozen=True, slots=True, eq=False)
class Cache:
    """Keys and values of sequences in scattered blocks, with NaN behind each one's end."""

    keys: Tensor
    values: Tensor
    tables: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, draw: Draw, lengths: Sequence[int], groups: int, width: int, dtype: torch.dtype) -> Cache:
        blocks = [-(-length // BLOCK) for length in lengths]
        # one that no sequence has
        shape = (sum(blocks) + 1, BLOCK, groups, width)
        keys, values = (torch.full(shape, torch.nan, dtype=dtype, device=CARD) for _ in range(2))
        tables = torch.full((len(lengths), COLUMNS), sum(blocks), dtype=torch.int32, device=CARD)
        order = torch.randperm(sum(blocks), device=CARD).int().split(blocks)
        for table, mine, length in zip(tables, order, lengths, strict=True):
            table[: len(mine)] = mine
            at = torch.arange(length, device=CARD)
            for cache in (keys, values):
                cache[table[at // BLOCK].long(), at % BLOCK] = draw(length, groups, width, dtype=dtype)
        return cls(keys.flatten(0, 1), values.flatten(0, 1), tables, torch.tensor(lengths, device=CARD).int())


@each_dtype
@each_shape
@pytest.mark.parametrize("splits", [None, 1, 4, 16])
def test_rows_attend_to_their_blocks_and_to_nothing_behind_their_ends(
    fused: Any,
    draw: Draw,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    splits: int | None,
) -> None:
    from workers.engine.continuous.ops import paged_attention

    if splits is not None:
        monkeypatch.setattr(paged_attention, "_splits", lambda programs: splits)
    queries, groups, width = shape
    lengths = [0, 1, 2, BLOCK - 1, 0, BLOCK, BLOCK + 1, 1000, 17 * BLOCK, 40 * BLOCK, 0]
    cache = Cache.of(draw, lengths, groups, width, dtype)
    q = draw(len(lengths), queries, width, dtype=dtype)
    made, wanted = (q.new_full((len(lengths), queries * width), UNTOUCHED) for _ in range(2))

    for attend, out in ((fused.attend_paged, made), (reference.attend_paged, wanted)):
        attend(q, cache.keys, cache.values, cache.tables, cache.lengths, BLOCK, out)

    assert_close([made], [wanted], ERRORS[dtype][1])
    assert (made[cache.lengths == 0] == UNTOUCHED).all()


@each_dtype
@each_shape
@pytest.mark.parametrize(("lengths", "history"), LENGTHS, ids=LENGTH_IDS)
@pytest.mark.parametrize("around", [0, 3])
def test_chunks_attend_to_themselves_and_to_what_came_before(
    fused: Any,
    draw: Draw,
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    lengths: tuple[int, ...],
    history: tuple[int, ...],
    around: int,
) -> None:
    queries, groups, width = shape
    cache = Cache.of(draw, [sum(each) for each in zip(lengths, history, strict=True)], groups, width, dtype)
    # rows of others before and after the chunks
    q = draw(around + sum(lengths) + around + 1, queries, width, dtype=dtype)
    cu_seqlens = spans_of(lengths, CARD).cu_seqlens + around
    made, wanted = (q.new_full((len(q), queries * width), UNTOUCHED) for _ in range(2))

    for attend, out in ((fused.attend_chunks, made), (reference.attend_chunks, wanted)):
        attend(q, cache.keys, cache.values, cache.tables, cu_seqlens, cache.lengths, BLOCK, out)

    assert_close([made], [wanted], ERRORS[dtype][1])
    assert (made[:around] == UNTOUCHED).all()
    assert (made[around + sum(lengths) :] == UNTOUCHED).all()


def test_a_captured_graph_attends_from_other_chunks_than_it_was_captured_with(fused: Any, draw: Draw) -> None:
    dtype = torch.bfloat16
    ends = [794, 26 + 768, 300, 2000]
    cache = Cache.of(draw, ends, 4, 128, dtype)
    q = draw(1200, 32, 128, dtype=dtype)
    tables, cu_seqlens, lengths = (
        cache.tables.clone(),
        spans_of((0,) * 4, CARD).cu_seqlens,
        torch.zeros_like(cache.lengths),
    )
    made = q.new_full((len(q), 32 * 128), UNTOUCHED)
    given = (q, cache.keys, cache.values, tables, cu_seqlens, lengths, BLOCK, made)
    fused.attend_chunks(*given)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fused.attend_chunks(*given)
    for rows in ((794, 26, 0, 380), (1, 1, 1, 1), (0, 0, 300, 900)):
        cu_seqlens.copy_(spans_of(rows, CARD).cu_seqlens)
        lengths.copy_(cache.lengths)
        made.fill_(UNTOUCHED)
        wanted = made.clone()

        graph.replay()

        reference.attend_chunks(*given[:-1], wanted)
        assert_close([made], [wanted], ERRORS[dtype][1])
        assert (made[sum(rows) :] == UNTOUCHED).all()


@each_dtype
@pytest.mark.parametrize("lengths", [(4096,), (1024,) * 11 + (3072,) * 3 + (4096,), (16, 4, 3000)])
@pytest.mark.parametrize("planned", [False, True])
def test_images_attend_to_themselves_whether_their_sizes_are_common_or_not(
    fused: Any, draw: Draw, dtype: torch.dtype, lengths: tuple[int, ...], planned: bool
) -> None:
    q, k, v = (draw(sum(lengths), 16, 72, dtype=dtype) for _ in range(3))
    spans = planned_spans(lengths) if planned else spans_of(lengths, CARD)
    assert spans.are_common == (planned and min(lengths) >= 256)

    assert_close(
        [fused.attend(q, k, v, spans)],
        [reference.attend(q, k, v, spans)],
        ERRORS[dtype][1],
    )


def planned_spans(lengths: Sequence[int]) -> Spans:
    """With all of these lengths common."""
    counted = Lengths()
    for _ in range(200):
        counted.are_common(lengths)
    return spans_of(lengths, CARD, counted)


IMAGES = {
    "one": (3072,),
    "shortest": (128,),
    "one-more": (129,),
    "odd": (200, 640, 1003),
    "long-and-short": (4096, 131),
    "equal": (1024,) * 8,
    "ten": (131, 132, 133, 134, 135, 136, 137, 1385, 777, 2049),
}


@pytest.fixture
def ours() -> Any:
    """The kernel for Hopper, for the heads of Qwen3-VL's vision tower."""
    from workers.engine.continuous.ops.attention import _image_attention
    from workers.engine.continuous.ops.gluon import runs_on

    if not runs_on(CARD):
        pytest.skip("needs a Hopper card and the Triton of its kernel")

    made = _image_attention(torch.device("cuda", torch.cuda.current_device()), torch.bfloat16, 16, 72)
    assert made is not None
    return made


def drawn_images(draw: Draw, patches: int, heads: int = 16, width: int = 72) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys, and values as the tower has them: a part of a wider product."""
    q, k = (draw(patches, heads, width, dtype=torch.bfloat16) for _ in range(2))
    return q, k, draw(patches, 3, heads, width, dtype=torch.bfloat16)[:, 2]


@pytest.mark.parametrize("lengths", IMAGES.values(), ids=IMAGES)
def test_on_hopper_images_attend_to_themselves_and_write_nothing_else(
    ours: Any, draw: Draw, lengths: tuple[int, ...]
) -> None:
    patches, spans = sum(lengths), spans_of(lengths, CARD)
    q, k, v = drawn_images(draw, patches)
    # more rows than a tile on either side
    around = q.new_full((300 + patches + 300, 16 * 72), UNTOUCHED)
    made = around[300:-300]

    ours(q, k, v, spans, made)

    assert_close([made.float()], [reference.attend(q.float(), k.float(), v.float(), spans)], ERRORS[torch.bfloat16][1])
    assert (around[:300] == UNTOUCHED).all()
    assert (around[-300:] == UNTOUCHED).all()


@pytest.mark.parametrize("lengths", [(300, 3001, 129), (129, 3000, 300), (128, 192, 128)], ids=str)
def test_on_hopper_nothing_of_one_image_reaches_another(ours: Any, draw: Draw, lengths: tuple[int, ...]) -> None:
    spans = spans_of(lengths, CARD)
    q, k, v = drawn_images(draw, sum(lengths))
    middle = slice(lengths[0], lengths[0] + lengths[1])
    wanted = reference.attend(q.float(), k.float(), v.float(), spans)[middle]
    outside = torch.ones(len(q), dtype=torch.bool, device=CARD)
    outside[middle] = False
    for part in (q, k, v):
        part[outside] = torch.nan
    made = q.new_empty(len(q), 16 * 72)

    ours(q, k, v, spans, made)

    assert_close([made[middle].float()], [wanted], ERRORS[torch.bfloat16][1])


@pytest.mark.parametrize(("heads", "width"), [(16, 72), (12, 80), (16, 64), (3, 72), (16, 128)], ids=str)
@pytest.mark.parametrize("lengths", [(640, 200), (4096, 16)], ids=str)
def test_images_attend_to_themselves_with_heads_of_any_width(
    fused: Any, draw: Draw, heads: int, width: int, lengths: tuple[int, ...]
) -> None:
    spans = spans_of(lengths, CARD)
    q, k, v = drawn_images(draw, sum(lengths), heads, width)

    wanted = reference.attend(q.float(), k.float(), v.float(), spans)
    assert_close([fused.attend(q, k, v, spans).float()], [wanted], ERRORS[torch.bfloat16][1])


@pytest.mark.parametrize("fault", ["raises", "writes zeros", "writes NaN"])
def test_a_kernel_that_fails_its_trial_is_not_used(
    ours: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    from workers.engine.continuous.ops import attention, vision_attention

    class Broken:
        def __init__(self, *shape: Any) -> None:
            if fault == "raises":
                raise AttributeError("gluon.jit")

        def __call__(self, q: Tensor, k: Tensor, v: Tensor, spans: Spans, out: Tensor) -> None:
            out.fill_(0.0 if fault == "writes zeros" else torch.nan)

    monkeypatch.setattr(vision_attention, "ImageAttention", Broken)

    with caplog.at_level(logging.WARNING):
        assert attention._image_attention.__wrapped__(CARD, torch.bfloat16, 16, 72) is None
    assert len(caplog.records) == 1
    assert "slower attention" in caplog.text
