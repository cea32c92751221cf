"""The forward pass for a batch of images of one size, equal to transformers' own and without its loops.

Uses the model's own weights. Rotary tables and the attention mask depend only on the size and are computed once. The
patch embedding is a matrix product, because a still image fills both frames of a patch with the same pixels. Attention
runs over a batch axis. Knows nothing of data or training.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from training.architecture import MERGE, PATCH
from training.layout import Layout

Tables = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Fixed:
    """Tensors that depend only on the layout."""

    layout: Layout
    grid: tuple[int, int]
    vision: Tables
    text: Tables
    visible: Tensor


def fix(layout: Layout, config: Any, device: torch.device) -> Fixed:
    """Compute the tensors of a layout."""
    grid = layout.rows * MERGE, layout.columns * MERGE
    rows, columns = (in_blocks(part) for part in torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij"))
    vision, text = config.vision_config, config.text_config
    half = vision.hidden_size // vision.num_heads // 2
    angles = torch.cat([axis[:, None] * _frequencies(half, 10_000.0) for axis in (rows, columns)], dim=-1)
    by_axis = layout.positions[..., None] * _frequencies(text.head_dim, text.rope_parameters["rope_theta"])
    mixed = by_axis[0].clone()
    for axis in (1, 2):
        section = slice(axis, text.rope_parameters["mrope_section"][axis] * 3, 3)
        mixed[:, section] = by_axis[axis][:, section]
    return Fixed(layout, grid, _tables(angles, device), _tables(mixed, device), layout.visible.to(device))


def in_blocks(grid: Tensor) -> Tensor:
    """Reshape (rows, columns, ...) to (patches, ...), in the model's order, which keeps 2 x 2 blocks together."""
    rows, columns, *rest = grid.shape
    split = grid.reshape(rows // MERGE, MERGE, columns // MERGE, MERGE, *rest).transpose(1, 2)
    return split.reshape(rows * columns, *rest)


def patches(pixels: Tensor) -> Tensor:
    """Reshape (batch, 3, height, width) to (batch, patches, 3 x 16 x 16), in the model's order."""
    batch, channels, height, width = pixels.shape
    step = PATCH * MERGE
    split = pixels.reshape(batch, channels, height // step, MERGE, PATCH, width // step, MERGE, PATCH)
    return split.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(batch, -1, channels * PATCH * PATCH)


class FastPath:
    """The model's forward pass over a fixed layout."""

    def __init__(self, model: Any, compiled: bool = False) -> None:
        self.visual, self.language = model.model.visual, model.model.language_model
        self.head = model.lm_head
        wrap: Any = partial(torch.compile, dynamic=True) if compiled else _unchanged
        self.vision_block, self.text_block = wrap(vision_block), wrap(text_block)

    def __call__(self, fixed: Fixed, pixels: Tensor, ids: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden states (batch, length, width) and image features (batch, image tokens, width).

        `padding` (batch, length) is true at positions that are masked out.
        """
        features, deep = self.encode_images(fixed, pixels)
        x, image = self.language.embed_tokens(ids), fixed.layout.image
        x = torch.cat([x[:, : image.start], features.to(x.dtype), x[:, image.stop :]], dim=1)
        own = torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)
        visible = ((fixed.visible & ~padding[:, None, :]) | own)[:, None]
        for number, layer in enumerate(self.language.layers):
            x = self.text_block(layer, x, *fixed.text, visible)
            if number < len(deep):
                middle = x[:, image] + deep[number].to(x.dtype)
                x = torch.cat([x[:, : image.start], middle, x[:, image.stop :]], dim=1)
        return self.language.norm(x), features

    def encode_images(self, fixed: Fixed, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the image features, and the DeepStack features that are added after the first text layers."""
        visual = self.visual
        weight = visual.patch_embed.proj.weight.sum(2).flatten(1)
        x = F.linear(patches(pixels), weight, visual.patch_embed.proj.bias) + self.position_embeddings(fixed)
        batch, deep = len(x), list[Tensor]()
        for number, block in enumerate(visual.blocks):
            x = self.vision_block(block, x, *fixed.vision)
            if number in visual.deepstack_visual_indexes:
                merger = visual.deepstack_merger_list[len(deep)]
                deep.append(merger(x.flatten(0, 1)).unflatten(0, (batch, -1)))
        return visual.merger(x.flatten(0, 1)).unflatten(0, (batch, -1)), deep

    def position_embeddings(self, fixed: Fixed) -> Tensor:
        """Interpolate the learned square of positions to the image's grid: (patches, width)."""
        table = self.visual.pos_embed.weight
        side = int(len(table) ** 0.5)
        square = table.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        stretched = F.interpolate(square, size=fixed.grid, mode="bilinear", align_corners=True)
        return in_blocks(stretched[0].permute(1, 2, 0))


def vision_block(block: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Any:
    """Run one vision layer over (batch, patches, width)."""
    batch, length, _ = x.shape
    heads = block.attn.num_heads
    q, k, v = block.attn.qkv(block.norm1(x)).reshape(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    attended = F.scaled_dot_product_attention(_rotate(q, cos, sin), _rotate(k, cos, sin), v)
    x = x + block.attn.proj(attended.transpose(1, 2).reshape(batch, length, -1))
    return x + block.mlp(block.norm2(x))


def text_block(layer: Any, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor) -> Any:
    """Run one text layer over (batch, length, width)."""
    batch, length, _ = x.shape
    attn, h = layer.self_attn, layer.input_layernorm(x)
    split = (batch, length, -1, attn.head_dim)
    q = attn.q_norm(attn.q_proj(h).view(split)).transpose(1, 2)
    k = attn.k_norm(attn.k_proj(h).view(split)).transpose(1, 2)
    v = attn.v_proj(h).view(split).transpose(1, 2)
    q, k = _rotate(q, cos, sin).to(v.dtype), _rotate(k, cos, sin).to(v.dtype)
    k, v = (part.repeat_interleave(attn.num_key_value_groups, dim=1) for part in (k, v))
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    x = x + attn.o_proj(attended.transpose(1, 2).reshape(batch, length, -1))
    return x + layer.mlp(layer.post_attention_layernorm(x))


def _unchanged(function: Any) -> Any:
    return function


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (x.float() * cos + turned * sin).to(x.dtype)


def _frequencies(width: int, base: float) -> Tensor:
    return 1.0 / (base ** (torch.arange(0, width, 2, dtype=torch.float32) / width))


def _tables(angles: Tensor, device: torch.device) -> Tables:
    doubled = torch.cat([angles, angles], dim=-1).to(device)
    return doubled.cos(), doubled.sin()
