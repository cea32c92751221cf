"""The vision tower's forward pass over many images at once: transformers' results without its loops."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, linear

from workers.engine.continuous.lengths import Lengths
from workers.engine.continuous.ops.base import Ops
from workers.engine.continuous.requests import ImageSpan
from workers.engine.continuous.transfer import spans_of, upload_bytes

#: Patches of one pass, unless it is of a single image. They bound the memory of its activations, as forward passes do
#: not: each of their tokens may be the end of an image that must be computed whole.
MAX_PATCHES = 8 * 4096
#: memory of the cached `PatchGrid`s
MAX_GRID_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class PatchGrid:
    """Position data that depends only on an image's size."""

    #: (patches, hidden size of the tower)
    embedding: Tensor
    #: (patches, 2, D / 2) float32, cosines and sines
    cos_sin: Tensor


class VisionTower:
    """The vision tower of a loaded Qwen3-VL. Belongs to the engine's thread."""

    def __init__(self, model: Any, image_processor: Any, ops: Ops) -> None:
        self._visual: Any = model.model.visual
        self._ops = ops
        self._merge = int(self._visual.spatial_merge_size)
        self._patch = int(self._visual.patch_size)
        self._frames = int(self._visual.patch_embed.temporal_patch_size)
        self._weight: Tensor = self._visual.patch_embed.proj.weight.flatten(1)
        self._bias: Tensor = self._visual.patch_embed.proj.bias
        # rescaled, then normalized, as the image processor does
        self._scale = float(image_processor.rescale_factor) if image_processor.do_rescale else 1.0
        stats = (image_processor.image_mean, image_processor.image_std) if image_processor.do_normalize else (0.0, 1.0)
        self._mean, self._std = (torch.tensor(stat, device=self._weight.device) for stat in stats)
        self._frequencies: Tensor = self._visual.rotary_pos_emb.inv_freq.float()
        self._heads = int(self._visual.config.num_heads)
        #: by block: what makes DeepStack features of its output. The first of two for a block counts, and one for a
        #: block that there is not is ignored, as in transformers
        indexes, mergers = self._visual.deepstack_visual_indexes, self._visual.deepstack_merger_list
        named = dict(zip(reversed(indexes), reversed(mergers), strict=True))
        self._deepstack = {block: named[block] for block in range(len(self._visual.blocks)) if block in named}
        self._lengths = Lengths()
        self._grids: OrderedDict[tuple[int, int], PatchGrid] = OrderedDict()

    @property
    def deepstack_layers(self) -> int:
        """Number of language model layers whose outputs get image features added."""
        return len(self._deepstack)

    def encode_images(self, images: Sequence[ImageSpan]) -> Iterator[tuple[ImageSpan, Tensor]]:
        """Yield each image with its features (1 + deepstack layers, tokens, H), those computed together at once."""
        # sorted by size: attention takes consecutive images of one size as a batch
        for batch in _in_passes(sorted(images, key=lambda image: image.patches)):
            features = torch.stack(self._forward(batch)).split([image.tokens for image in batch], dim=1)
            yield from zip(batch, features, strict=True)

    def _forward(self, images: Sequence[ImageSpan]) -> list[Tensor]:
        """Return the final and the deepstack features, (tokens, H) each."""
        grids = [self._grid(image.rows, image.columns) for image in images]
        lengths = tuple(image.patches for image in images)
        spans = spans_of(lengths, self._weight.device, self._lengths)
        x = linear(self._patches(images), self._weight, self._bias)
        x = x + torch.cat([grid.embedding for grid in grids])
        cos_sin = torch.cat([grid.cos_sin for grid in grids])
        deepstack: list[Tensor] = []
        delta: Tensor | None = None
        for number, block in enumerate(self._visual.blocks):
            h, x = self._norm(delta, x, block.norm1)
            if number - 1 in self._deepstack:
                deepstack.append(self._deepstack[number - 1](x))
            q, k, v = self._ops.rotate_patches(_linear(h, block.attn.qkv), self._heads, cos_sin)
            delta = _linear(self._ops.attend(q, k, v, spans), block.attn.proj)
            h, x = self._norm(delta, x, block.norm2)
            inner = block.mlp.linear_fc1
            delta = _linear(self._ops.gelu_linear(h, inner.weight, inner.bias), block.mlp.linear_fc2)
        assert delta is not None
        x = x + delta
        if len(self._visual.blocks) - 1 in self._deepstack:
            deepstack.append(self._deepstack[len(self._visual.blocks) - 1](x))
        return [self._visual.merger(x), *deepstack]

    def _norm(self, delta: Tensor | None, x: Tensor, norm: Any) -> tuple[Tensor, Tensor]:
        return self._ops.add_layer_norm(delta, x, norm.weight, norm.bias, norm.eps)

    def _patches(self, images: Sequence[ImageSpan]) -> Tensor:
        frames = iter(upload_bytes([frame for image in images for frame in image.pixels], self._weight.device))
        return torch.cat([self._patches_of(image, [next(frames) for _ in image.pixels]) for image in images])

    def _patches_of(self, image: ImageSpan, frames: Sequence[Tensor]) -> Tensor:
        """Return (patches, values of a patch), merged patches together; a single frame is both of each patch."""
        flat = torch.stack([self._in_patches(image, frame) for frame in frames], dim=5)
        return flat.expand(*flat.shape[:5], self._frames, *flat.shape[6:]).reshape(image.patches, -1)

    def _in_patches(self, image: ImageSpan, pixels: Tensor) -> Tensor:
        values = (pixels.view(-1, 3).float() * self._scale - self._mean) / self._std
        patch, merge = self._patch, self._merge
        blocks = values.view(image.rows // merge, merge, patch, image.columns // merge, merge, patch, 3)
        return blocks.permute(0, 3, 1, 4, 6, 2, 5).to(self._weight.dtype)

    def _grid(self, rows: int, columns: int) -> PatchGrid:
        found = self._grids.pop((rows, columns), None) or self._make_grid(rows, columns)
        self._grids[rows, columns] = found
        while sum(map(_bytes, self._grids.values())) > MAX_GRID_BYTES and len(self._grids) > 1:
            self._grids.popitem(last=False)
        return found

    def _make_grid(self, rows: int, columns: int) -> PatchGrid:
        """Interpolate the learned positions (bilinear, corners aligned) and compute the rotary angles."""
        table: Tensor = self._visual.pos_embed.weight
        side = int(len(table) ** 0.5)
        square = table.float().view(1, side, side, -1).permute(0, 3, 1, 2)
        stretched = interpolate(square, size=(rows, columns), mode="bilinear", align_corners=True)[0].permute(1, 2, 0)
        axes = (torch.arange(count, device=table.device) for count in (rows, columns))
        coordinates = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).float()
        angles = (coordinates[..., None] * self._frequencies).flatten(2)
        angles = self._in_blocks(angles)
        return PatchGrid(self._in_blocks(stretched).to(table.dtype), torch.stack([angles.cos(), angles.sin()], dim=1))

    def _in_blocks(self, grid: Tensor) -> Tensor:
        """Reorder (rows, columns, N) to (patches, N), merged patches together."""
        rows, columns, _ = grid.shape
        merge = self._merge
        return grid.view(rows // merge, merge, columns // merge, merge, -1).transpose(1, 2).flatten(0, 3)


def _linear(x: Tensor, module: Any) -> Tensor:
    return linear(x, module.weight, module.bias)


def _in_passes(images: Sequence[ImageSpan]) -> list[list[ImageSpan]]:
    passes: list[list[ImageSpan]] = []
    patches = MAX_PATCHES
    for image in images:
        if patches + image.patches > MAX_PATCHES:
            passes.append([])
            patches = 0
        passes[-1].append(image)
        patches += image.patches
    return passes


def _bytes(grid: PatchGrid) -> int:
    return grid.embedding.nbytes + grid.cos_sin.nbytes
