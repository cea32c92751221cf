"""The training loss: cross-entropy of the answers, plus a grounding loss on the image tokens.

For the grounding loss, a linear map that is dropped after training predicts the colour and shape at each image token.
It teaches the vision encoder colours and shapes long before the answers alone would. Also augments pixels slightly, as
cameras and codecs do.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data import COLOUR_CLASSES, SHAPE_CLASSES, UNLABELLED, Batch
from training.fast_path import FastPath, Fixed

GROUNDING_WEIGHT = 0.5


class Grounding(nn.Module):
    """Predicts the colour and the shape whose middle an image token covers; class 0 is none."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.colour, self.shape = nn.Linear(width, len(COLOUR_CLASSES) + 1), nn.Linear(width, len(SHAPE_CLASSES) + 1)

    def loss(self, features: Tensor, cells: Tensor) -> Tensor:
        """Return the sum of the cross-entropies of colour and shape."""
        colour = F.cross_entropy(self.colour(features).flatten(0, 1).float(), cells[..., 0].flatten())
        shape = F.cross_entropy(self.shape(features).flatten(0, 1).float(), cells[..., 1].flatten())
        return colour + shape


def normalised(pixels: Tensor) -> Tensor:
    """Convert bytes (batch, height, width, 3) to the processor's output: (batch, 3, height, width) in -1 to 1."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def augmented(pixels: Tensor) -> Tensor:
    """Add grain and change brightness and contrast of half of the images, each differently."""
    shape = (len(pixels), 1, 1, 1)
    amount = (torch.rand(shape, device=pixels.device) - 0.5).clamp(min=0) * 2
    grain = torch.randn_like(pixels) * amount * 0.06
    contrast = 1 + amount * 0.16 * (torch.rand(shape, device=pixels.device) - 0.5)
    brightness = amount * 0.08 * (torch.rand(shape, device=pixels.device) - 0.5)
    return pixels * contrast + grain + brightness


def answer_logits(path: FastPath, fixed: Fixed, pixels: Tensor, ids: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Return the logits of the segments, which contain the answers, and the image features."""
    hidden, features = path(fixed, pixels, ids, ids == pad)
    return path.head(hidden[:, fixed.layout.shared : -1]), features


def loss(path: FastPath, grounding: Grounding, fixed: Fixed, batch: Batch, pad: int) -> tuple[Tensor, Tensor]:
    """Return the loss of the answers and of the grounding."""
    logits, features = answer_logits(path, fixed, augmented(normalised(batch.pixels)), batch.ids, pad)
    labels = batch.labels[:, fixed.layout.shared + 1 :]
    answers = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=UNLABELLED)
    return answers, grounding.loss(features, batch.cells)


@torch.no_grad()
def right(path: FastPath, fixed: Fixed, batch: Batch, pad: int) -> list[bool]:
    """Return, for rows with one question, whether greedy decoding gives the answer and then ends."""
    logits: Any = answer_logits(path, fixed, normalised(batch.pixels), batch.ids, pad)[0]
    labels = batch.labels[:, fixed.layout.shared + 1 :]
    hits: list[bool] = ((logits.argmax(-1) == labels) | (labels == UNLABELLED)).all(1).tolist()
    return hits
