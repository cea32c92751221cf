"""The inputs of one forward pass as one array of numbers, so that a pass costs one copy to the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.engine.continuous.scheduler import Batch
from workers.engine.continuous.sequence import Chunk
from workers.engine.continuous.slot_table import SlotTable

Numbers = NDArray[numpy.int32]


@dataclass(frozen=True, slots=True)
class PassShape:
    """How many of everything the inputs of a pass have room for. A CUDA graph has one shape."""

    #: tokens, first those of decoding sequences, then those of chunks
    rows: int
    #: of the rows, those at the beginning that may be of decoding sequences
    decode: int
    chunks: int
    #: rows whose logits are computed
    outputs: int

    @classmethod
    def of(cls, batch: Batch) -> Self:
        """Return the shape without padding, but for one output: a kernel cannot be launched on no rows."""
        return cls(batch.num_tokens, len(batch.decode), len(batch.chunks), max(1, len(batch.sequences)))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of each field of `PassInputs`, in order."""
        rows, decode, chunks, outputs = self.rows, self.decode, self.chunks, self.outputs
        return rows, 3 * rows, rows, rows, decode, decode, chunks, chunks + 1, chunks, outputs, outputs, outputs


@dataclass(frozen=True, slots=True, eq=False)
class PassInputs:
    """Views of one array, or of one tensor on the device; int32."""

    #: (rows) a prompt's token; for a decoding sequence -1 - its slot, whose newest token is on the device
    tokens: Any
    #: (3 rows) time, height and width of each row
    positions: Any
    #: (rows) where the cache keeps each row's keys and values
    slot_mapping: Any
    #: (rows) which image feature a row has, -1 for none
    features: Any
    #: (decode) the slots, and the tokens in the cache after this pass; 0 for padding
    decode_slots: Any
    decode_lengths: Any
    #: (chunks), (chunks + 1), (chunks): slots, where the rows of each begin, and tokens in the cache after this pass
    chunk_slots: Any
    cu_seqlens: Any
    chunk_lengths: Any
    #: (outputs) rows, their slots, and tokens in the cache after this pass
    output_rows: Any
    output_slots: Any
    output_lengths: Any

    @classmethod
    def of(cls, whole: Tensor | Numbers, shape: PassShape) -> Self:
        """Return views of `whole`, which has the sum of `shape.sizes` numbers."""
        ends = numpy.cumsum(shape.sizes).tolist()
        return cls(*(whole[end - size : end] for end, size in zip(ends, shape.sizes, strict=True)))


class PassWriter:
    """Writes the inputs of batches."""

    def __init__(self, table: SlotTable, block_size: int, null_block: int) -> None:
        self._table = table
        self._block_size = block_size
        #: where rows that pad a batch are written
        self._null_position = null_block * block_size

    def write(self, batch: Batch, shape: PassShape) -> Tensor:
        """Return the inputs of `batch`, padded to `shape`: one int32 tensor on the host."""
        whole = numpy.zeros(sum(shape.sizes), dtype=numpy.int32)
        inputs = PassInputs.of(whole, shape)
        inputs.slot_mapping[:] = self._null_position
        inputs.features[:] = -1
        for slots in (inputs.decode_slots, inputs.chunk_slots, inputs.output_slots):
            slots[:] = self._table.padding_slot
        self._write_decode(batch, inputs)
        self._write_chunks(batch, inputs)
        return torch.from_numpy(whole)

    def _write_decode(self, batch: Batch, inputs: PassInputs) -> None:
        count = len(batch.decode)
        if not count:
            return
        slots = numpy.array([seq.slot for seq in batch.decode], dtype=numpy.int32)
        # the scheduler has counted the token that this pass computes
        lengths = numpy.array([seq.num_prompt_tokens + seq.num_generated - 1 for seq in batch.decode], numpy.int32)
        inputs.tokens[:count] = -1 - slots
        positions = lengths - 1 + self._table.host_mrope_delta[slots]
        inputs.positions[: 3 * count] = numpy.repeat(positions, 3)
        inputs.slot_mapping[:count] = self._positions(slots, lengths - 1)
        inputs.decode_slots[:count], inputs.decode_lengths[:count] = slots, lengths
        inputs.output_rows[:count] = numpy.arange(count)
        inputs.output_slots[:count], inputs.output_lengths[:count] = slots, lengths

    def _write_chunks(self, batch: Batch, inputs: PassInputs) -> None:
        row = output = len(batch.decode)
        feature = 0
        if len(inputs.cu_seqlens):
            inputs.cu_seqlens[:] = batch.num_tokens
        for number, chunk in enumerate(batch.chunks):
            rows = slice(row, row + chunk.num_tokens)
            request = chunk.request
            inputs.tokens[rows] = request.tokens[chunk.start : chunk.stop].numpy()
            positions = request.positions[chunk.start : chunk.stop].numpy()
            inputs.positions[3 * row : 3 * rows.stop] = positions.reshape(-1)
            inputs.slot_mapping[rows] = self._positions(
                chunk.slot, numpy.arange(chunk.start, chunk.stop, dtype=numpy.int32)
            )
            for begin, end in image_rows(chunk):
                inputs.features[row + begin : row + end] = numpy.arange(feature, feature + end - begin)
                feature += end - begin
            inputs.chunk_slots[number], inputs.chunk_lengths[number] = chunk.slot, chunk.stop
            inputs.cu_seqlens[number] = row
            row = rows.stop
            if chunk.is_last:
                inputs.output_rows[output] = row - 1
                inputs.output_slots[output], inputs.output_lengths[output] = chunk.slot, chunk.stop
                output += 1

    def _positions(self, slots: Any, at: Numbers) -> Any:
        """Return where the cache keeps the tokens number `at` of the slots."""
        blocks = self._table.host_block_tables[slots, at // self._block_size]
        return blocks * self._block_size + at % self._block_size


def image_rows(chunk: Chunk) -> Iterator[tuple[int, int]]:
    """Yield the tokens of a chunk that are of an image, counted from its start, image by image."""
    for image in chunk.images:
        yield max(chunk.start, image.start) - chunk.start, min(chunk.stop, image.stop) - chunk.start
