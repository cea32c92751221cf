"""Launches `vision_kernel`: attention of images to themselves on Hopper."""

# Triton has no types
# mypy: disable-error-code="misc"

from __future__ import annotations

import torch
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from workers.engine.continuous.ops.base import Spans
from workers.engine.continuous.ops.vision_kernel import KEYS, MAIN, REST, ROWS, attend_images_kernel

#: by columns of a box: the bytes of a row are those after which its swizzle repeats
_LAYOUTS = {columns: gl.NVMMASharedLayout(2 * columns, 16, 2) for columns in (MAIN.value, REST.value)}


class _Map(TensorDescriptor):
    """A descriptor that is not checked, which would take longer than the launch: `supports` says what is needed."""

    def __post_init__(self) -> None:
        pass


def supports(heads: int, width: int) -> bool:
    """Whether the kernel can compute `heads` of `width` columns in a 2-byte type."""
    # addresses and rows of what a descriptor describes are aligned to 16 bytes
    return MAIN.value < width <= MAIN.value + REST.value and heads * width % 8 == 0


class ImageAttention:
    """The kernel for a number of heads and their width, in bfloat16 on one device."""

    def __init__(self, device: torch.device, heads: int, width: int) -> None:
        """Compile it, which takes seconds unless Triton has it in its cache."""
        #: the shortest image that is supported: a step takes so many keys
        self.min_length: int = KEYS.value
        self._shape = heads, width
        self._processors = torch.cuda.get_device_properties(device).multi_processor_count
        q = torch.empty(self.min_length, heads, width, dtype=torch.bfloat16, device=device)
        tiles = torch.empty(1, 3, dtype=torch.int32, device=device)
        self._kernel = attend_images_kernel.warmup(
            *_maps(TensorDescriptor, q, q, q), tiles, 1, q, 1.0, HEADS=heads, WIDTH=width, num_warps=4, grid=(1,)
        )

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, spans: Spans, out: Tensor) -> None:
        """Attend from (T, heads, D) and write (T, heads D); no image is shorter than `min_length`."""
        heads, width = self._shape
        works = len(spans.tiles) * heads
        # Not by `attend_images_kernel[grid]`, which looks for the compilation each time: that and the checks of
        # descriptors are more than half of the host's time for a launch, and each layer of the tower has one.
        self._kernel[min(works, self._processors), 1, 1](
            # 1.44 is log2(e): the kernel's exponentials have base 2
            *_maps(_Map, q, k, v), spans.tiles, works, out, width**-0.5 * 1.4426950408889634, heads, width
        )  # fmt: skip


def _maps(kind: type[TensorDescriptor], q: Tensor, k: Tensor, v: Tensor) -> list[TensorDescriptor]:
    tokens, heads, width = q.shape
    shape = [tokens, heads * width]
    return [
        kind(part, shape, [part.stride(0), 1], [rows, columns], layout)
        for part, rows in ((q, ROWS.value), (k, KEYS.value), (v, KEYS.value))
        for columns, layout in _LAYOUTS.items()
    ]
