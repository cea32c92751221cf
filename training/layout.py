"""Where tokens stand in a training row: one image, several questions about it.

A row is a left-padded opening (a system message, the user's turn, perhaps the question), the image's tokens, and then
segments side by side: each holds one question and its answer, sees the shared part and itself, and stands at the same
positions as if it were alone. So an image's tokens are computed once for all its questions. Rotary positions are
relative, so the padding before the opening changes nothing. Knows positions and visibility; nothing of words.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """For one image size: rows and columns count image tokens."""

    rows: int
    columns: int
    opening: int
    segments: int
    segment: int

    @property
    def image(self) -> slice:
        """Where the image's tokens stand."""
        return slice(self.opening, self.opening + self.rows * self.columns)

    @property
    def shared(self) -> int:
        """Length of what all segments see: the opening, the image and the token that closes it."""
        return self.opening + self.rows * self.columns + 1

    @property
    def length(self) -> int:
        """Rounded up to a multiple of 8, which attention kernels want of a mask."""
        return -(-(self.shared + self.segments * self.segment) // 8) * 8

    def start(self, segment: int) -> int:
        """Where a segment begins."""
        return self.shared + segment * self.segment

    @cached_property
    def positions(self) -> Tensor:
        """(3, length): time, height and width positions as Qwen3-VL counts them."""
        after = self.opening + max(self.rows, self.columns)
        flat = torch.arange(self.rows * self.columns)
        image = torch.stack([flat * 0, flat // self.columns, flat % self.columns]) + self.opening
        tail = torch.cat([torch.tensor([after])] + [torch.arange(self.segment) + after + 1] * self.segments)
        spare = torch.full((self.length - self.shared - self.segments * self.segment,), after)
        tail = torch.cat([tail, spare])
        return torch.cat([torch.arange(self.opening).expand(3, -1), image, tail.expand(3, -1)], dim=1)

    @cached_property
    def visible(self) -> Tensor:
        """(length, length): whether a token may see another, padding aside."""
        place = torch.arange(self.length)
        group = ((place - self.shared).clamp(min=-1)) // self.segment  # -1 for the shared part
        same = group[:, None] == group[None, :]
        return (place[:, None] >= place[None, :]) & (same | (group[None, :] == -1))
