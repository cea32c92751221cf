"""The vision tower's forward pass over many images at once, equal to transformers' own, without its loops."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, linear

from workers.engine.continuous.lengths import Lengths
from workers.engine.continuous.ops.base import Ops
from workers.engine.continuous.requests import Sight
from workers.engine.continuous.transfer import spans_of, upload_bytes

#: patches of one pass: bounds what its activations take
_MOST_PATCHES = 16 * 4096
#: of what depends on an image's size alone
MOST_GRID_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """What depends on an image's size alone."""

    #: (patches, width of the tower)
    embedding: Tensor
    #: (patches, 2, D / 2) float32, cosines and sines
    turns: Tensor


class VisionTower:
    """The tower of a loaded Qwen3-VL. Belongs to the engine's thread."""

    def __init__(self, model: Any, image_processor: Any, ops: Ops) -> None:
        self._visual: Any = model.model.visual
        self._ops = ops
        self._merge = int(self._visual.spatial_merge_size)
        self._patch = int(self._visual.patch_size)
        self._frames = int(self._visual.patch_embed.temporal_patch_size)
        self._weight: Tensor = self._visual.patch_embed.proj.weight.flatten(1)
        self._bias: Tensor = self._visual.patch_embed.proj.bias
        # as the image processor computes: rescaled, then normalized
        self._scale = float(image_processor.rescale_factor)
        stats = (image_processor.image_mean, image_processor.image_std)
        self._mean, self._std = (torch.tensor(stat, device=self._weight.device) for stat in stats)
        self._frequencies: Tensor = self._visual.rotary_pos_emb.inv_freq.float()
        self._heads = int(self._visual.config.num_heads)
        self._deep: list[int] = list(self._visual.deepstack_visual_indexes)
        self._lengths = Lengths()
        self._grids: OrderedDict[tuple[int, int], Grid] = OrderedDict()

    @property
    def deep_layers(self) -> int:
        """Layers of the language model that get features of their own."""
        return len(self._deep)

    def see(self, sights: Sequence[Sight]) -> list[Tensor]:
        """Each image's features: (1 + deep layers, its tokens, H)."""
        made: dict[Sight, Tensor] = {}
        # those of one size together: attention takes them as one batch
        for some in _in_passes(sorted(sights, key=lambda sight: sight.patches)):
            features = torch.stack(self._forward(some)).split([sight.tokens for sight in some], dim=1)
            made.update(zip(some, features, strict=True))
        return [made[sight] for sight in sights]

    def _forward(self, sights: Sequence[Sight]) -> list[Tensor]:
        grids = [self._grid(sight.rows, sight.columns) for sight in sights]
        lengths = tuple(sight.patches for sight in sights)
        spans = spans_of(lengths, self._weight.device, self._lengths)
        x = linear(self._patches(sights), self._weight, self._bias)
        x = x + torch.cat([grid.embedding for grid in grids])
        turns = torch.cat([grid.turns for grid in grids])
        deep: list[Tensor] = []
        delta: Tensor | None = None
        for number, block in enumerate(self._visual.blocks):
            h, x = self._norm(delta, x, block.norm1)
            if number - 1 in self._deep:
                deep.append(self._visual.deepstack_merger_list[len(deep)](x))
            q, k, v = self._ops.rotate_patches(_product(h, block.attn.qkv), self._heads, turns)
            delta = _product(self._ops.attend(q, k, v, spans, spans, causal=False), block.attn.proj)
            h, x = self._norm(delta, x, block.norm2)
            inner = block.mlp.linear_fc1
            delta = _product(self._ops.gelu_linear(h, inner.weight, inner.bias), block.mlp.linear_fc2)
        assert delta is not None
        x = x + delta
        if len(deep) < len(self._deep):
            deep.append(self._visual.deepstack_merger_list[len(deep)](x))
        return [self._visual.merger(x), *deep]

    def _norm(self, delta: Tensor | None, x: Tensor, norm: Any) -> tuple[Tensor, Tensor]:
        return self._ops.add_layer_norm(delta, x, norm.weight, norm.bias, norm.eps)

    def _patches(self, sights: Sequence[Sight]) -> Tensor:
        pixels = upload_bytes([sight.pixels for sight in sights], self._weight.device)
        return torch.cat([self._patches_of(sight, part) for sight, part in zip(sights, pixels, strict=True)])

    def _patches_of(self, sight: Sight, pixels: Tensor) -> Tensor:
        """(patches, pixels of a patch), 2 x 2 blocks together; both frames of a patch show the same still image."""
        values = (pixels.view(-1, 3).float() * self._scale - self._mean) / self._std
        patch, merge = self._patch, self._merge
        blocks = values.view(sight.rows // merge, merge, patch, sight.columns // merge, merge, patch, 3)
        flat = blocks.permute(0, 3, 1, 4, 6, 2, 5).to(self._weight.dtype)
        return flat.unsqueeze(5).expand(*flat.shape[:5], self._frames, patch, patch).reshape(sight.patches, -1)

    def _grid(self, rows: int, columns: int) -> Grid:
        found = self._grids.pop((rows, columns), None) or self._make_grid(rows, columns)
        self._grids[rows, columns] = found
        while sum(map(_bytes, self._grids.values())) > MOST_GRID_BYTES and len(self._grids) > 1:
            self._grids.popitem(last=False)
        return found

    def _make_grid(self, rows: int, columns: int) -> Grid:
        """Learned positions stretched over the image (bilinear, corners aligned), and turns by row and column."""
        table: Tensor = self._visual.pos_embed.weight
        side = int(len(table) ** 0.5)
        square = table.float().view(1, side, side, -1).permute(0, 3, 1, 2)
        stretched = interpolate(square, size=(rows, columns), mode="bilinear", align_corners=True)[0].permute(1, 2, 0)
        axes = (torch.arange(count, device=table.device) for count in (rows, columns))
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).float()
        angles = (places[..., None] * self._frequencies).flatten(2)
        angles = self._in_blocks(angles)
        return Grid(self._in_blocks(stretched).to(table.dtype), torch.stack([angles.cos(), angles.sin()], dim=1))

    def _in_blocks(self, grid: Tensor) -> Tensor:
        """(rows, columns, N) to (patches, N), in the order of the patches."""
        rows, columns, _ = grid.shape
        merge = self._merge
        return grid.view(rows // merge, merge, columns // merge, merge, -1).transpose(1, 2).flatten(0, 3)


def _product(x: Tensor, module: Any) -> Tensor:
    return linear(x, module.weight, module.bias)


def _in_passes(sights: Sequence[Sight]) -> list[list[Sight]]:
    passes: list[list[Sight]] = []
    patches = _MOST_PATCHES
    for sight in sights:
        if patches + sight.patches > _MOST_PATCHES:
            passes.append([])
            patches = 0
        passes[-1].append(sight)
        patches += sight.patches
    return passes


def _bytes(grid: Grid) -> int:
    return grid.embedding.nbytes + grid.turns.nbytes
