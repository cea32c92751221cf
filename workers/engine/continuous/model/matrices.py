"""Reads matrices of a checkpoint: in float8 where it has them so, or quantizes them one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vqa.errors import NotReady
from workers.engine.continuous.ops.base import FLOAT8_BLOCK, Float8Matrix, Matrix
from workers.engine.continuous.ops.float8 import dequantize, join, quantize_matrix, stack, transpose
from workers.engine.model.checkpoint import Checkpoint
from workers.engine.model.quant import SCALE_SUFFIX


class MatrixReader:
    """Every method raises NotReady with the name of a tensor that is missing, damaged or of another shape."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, quantize: bool) -> None:
        """Quantize all matrices, or convert those that are not in float8 to `dtype`."""
        self.checkpoint = checkpoint
        self._dtype = dtype
        self._quantize = quantize

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Read what is not quantized."""
        return self._read(name, shape).to(self._dtype)

    def joined(self, rows: Mapping[str, int], columns: int) -> Matrix:
        """Read matrices of these rows into one, which is in float8 if all of them are."""
        parts = [self._scaled(name, self._read(name, (count, columns))) for name, count in rows.items()]
        if self._quantize:
            return quantize_matrix(torch.cat([self._whole(part) for part in parts]))
        eights = [part for part in parts if isinstance(part, Float8Matrix)]
        seams = list(rows.values())[:-1]
        # a block across a seam has two scales: those weights are kept at full size, rather than changed
        if len(eights) < len(parts) or any(seam % FLOAT8_BLOCK for seam in seams):
            return torch.cat([self._whole(part) for part in parts])
        return join(eights)

    def stacked(self, name: str, shape: tuple[int, int, int]) -> Matrix:
        """Read experts that lie in one tensor: (experts, O, H), or (experts, H, O) as in the released checkpoints."""
        stored = self.checkpoint.read(name)
        turned = (shape[0], shape[2], shape[1])
        is_turned = tuple(stored.shape) == turned != shape
        matrix = self._scaled(name, self._of_shape(name, stored, turned if is_turned else shape))
        if isinstance(matrix, Tensor):
            matrix = matrix.mT if is_turned else matrix
            return quantize_matrix(matrix) if self._quantize else matrix.contiguous()
        return transpose(matrix) if is_turned else matrix

    def stack(self, matrices: Sequence[Matrix]) -> Matrix:
        """Stack matrices; in float8 if all of them are."""
        eights = [matrix for matrix in matrices if isinstance(matrix, Float8Matrix)]
        if len(eights) < len(matrices):
            return torch.stack([self._whole(matrix) for matrix in matrices])
        return stack(eights)

    def _scaled(self, name: str, stored: Tensor) -> Matrix:
        """Return a matrix with its scales if it is in float8."""
        if stored.dtype != torch.float8_e4m3fn:
            return stored.to(self._dtype)
        blocks = [-(-side // FLOAT8_BLOCK) for side in stored.shape[-2:]]
        # some checkpoints have them in bfloat16
        scales = self._read(name + SCALE_SUFFIX, (*stored.shape[:-2], *blocks)).float()
        if not (scales.isfinite() & (scales >= 0)).all():
            raise NotReady(
                f"{name}{SCALE_SUFFIX} of {self.checkpoint.model} (VQA_MODEL) is damaged: not all are scales"
            )
        return Float8Matrix(stored, scales)

    def _whole(self, part: Matrix) -> Tensor:
        return part if isinstance(part, Tensor) else dequantize(part).to(self._dtype)

    def _read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self._of_shape(name, self.checkpoint.read(name), shape)

    def _of_shape(self, name: str, stored: Tensor, shape: tuple[int, ...]) -> Tensor:
        if tuple(stored.shape) != shape:
            raise NotReady(
                f"{name} of {self.checkpoint.model} (VQA_MODEL) is {list(stored.shape)} and has to be {list(shape)}"
            )
        return stored
