"""Qwen-VL's patch embedding as the matrix product that it is.

The checkpoints name it a Conv3d whose kernel is one whole patch, so each patch is one row times one matrix. Run as a
convolution it took 11% of a microbatch on a CPU and 4.35 ms for 8 images on an H100, as a product 0.18 ms there.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class PatchProduct(nn.Linear):
    """A Conv3d over patches of exactly its kernel's size: (patches, channels, time, height, width) in."""

    @classmethod
    def of(cls, convolution: nn.Conv3d) -> PatchProduct:
        """The same numbers, sharing the convolution's memory."""
        weight = convolution.weight.flatten(1)
        made = cls(weight.shape[1], weight.shape[0], device="meta")
        made.weight = nn.Parameter(weight, requires_grad=False)
        made.bias = convolution.bias
        return made

    def forward(self, input: Tensor) -> Tensor:
        """(patches, embedding)."""
        return super().forward(input.flatten(1))


def multiply_patches(model: Any) -> None:
    """Replace the patch embedding of a Qwen3-VL model in place."""
    embedding = model.model.visual.patch_embed
    embedding.proj = PatchProduct.of(embedding.proj)
