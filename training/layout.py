"""The layout of a training row: one image and several questions about it.

A row is a left-padded opening (a system message, the start of the user's turn, perhaps the question), the image's
tokens, and one segment per question. A segment holds a question and its answer, attends to the shared part and to
itself, and has the positions that it would have alone. So an image's tokens are computed once for all its questions.
Rotary positions are relative, so the padding changes nothing. Knows positions and masks; nothing of words.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """The layout for one image size; rows and columns count image tokens."""

    rows: int
    columns: int
    opening: int
    segments: int
    segment: int

    @property
    def image(self) -> slice:
        """The positions of the image's tokens in the row."""
        return slice(self.opening, self.opening + self.rows * self.columns)

    @property
    def shared(self) -> int:
        """Length of the part that all segments see: the opening, the image and the token that closes it."""
        return self.opening + self.rows * self.columns + 1

    @property
    def length(self) -> int:
        """Rounded up to a multiple of 8, as attention kernels require of a mask."""
        return -(-(self.shared + self.segments * self.segment) // 8) * 8

    def start(self, segment: int) -> int:
        return self.shared + segment * self.segment

    @cached_property
    def positions(self) -> Tensor:
        """Time, height and width positions of Qwen3-VL: (3, length)."""
        after = self.opening + max(self.rows, self.columns)
        flat = torch.arange(self.rows * self.columns)
        image = torch.stack([flat * 0, flat // self.columns, flat % self.columns]) + self.opening
        tail = torch.cat([torch.tensor([after])] + [torch.arange(self.segment) + after + 1] * self.segments)
        spare = torch.full((self.length - self.shared - self.segments * self.segment,), after)
        tail = torch.cat([tail, spare])
        return torch.cat([torch.arange(self.opening).expand(3, -1), image, tail.expand(3, -1)], dim=1)

    @cached_property
    def visible(self) -> Tensor:
        """Whether a token may attend to another, apart from padding: (length, length)."""
        place = torch.arange(self.length)
        group = ((place - self.shared).clamp(min=-1)) // self.segment  # -1 for the shared part
        same = group[:, None] == group[None, :]
        return (place[:, None] >= place[None, :]) & (same | (group[None, :] == -1))
