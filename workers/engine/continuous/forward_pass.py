"""One forward pass: the next token of decoding sequences, chunks of prompts, and the logits of both.

The keys and values of all rows of a layer are written before its attention reads the cache. So a chunk finds the
earlier chunks of its prompt there, and a prompt may share blocks that another one fills in the same pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.continuous.model.image_features import ImageFeatures, ImageRows
from workers.engine.continuous.model.language import DeepStack, LanguageModel
from workers.engine.continuous.ops.base import Ops
from workers.engine.continuous.pass_inputs import PassInputs, PassShape, image_rows
from workers.engine.continuous.sequence import Chunk
from workers.engine.continuous.slot_table import SlotTable


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """The language model over a cache and a slot table. Belongs to the engine's thread."""

    language: LanguageModel
    slot_table: SlotTable
    ops: Ops

    def compute(
        self, whole: Tensor, shape: PassShape, features: Tensor | None, logits: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute a pass and advance the slot table by its greedy tokens; return them (outputs) and their logits.

        `whole` are the inputs (see `PassInputs`) on the device, `features` (1 + deepstack layers, N, H) of the images'
        tokens, None if there are none. The logits (outputs, vocabulary) are written to `logits` if given. Never waits
        for the device, so it can be captured.
        """
        inputs = PassInputs.of(whole, shape)
        table = self.slot_table
        newest = table.token[(-1 - inputs.tokens).clamp_min(0)]
        x = self.language.embed(torch.where(inputs.tokens < 0, newest, inputs.tokens.long()))
        deepstack: DeepStack | None = None
        if features is not None:
            mask, rows = inputs.features[:, None] >= 0, inputs.features.clamp_min(0)
            x = features[0][rows].where(mask, x)
            deepstack = DeepStack(mask, rows, features[1:].unbind())
        cos_sin = self.language.cos_sin(inputs.positions.view(-1, 3))
        attend = _Attention(self, inputs, shape, cos_sin).attend
        h = self.language.forward(x, attend, deepstack, inputs.output_rows)
        made = self.language.logits(h, logits)
        tokens = made.argmax(-1)
        table.advance(inputs.output_slots, inputs.output_lengths.long(), tokens)
        return tokens, made


class _Attention:
    """Attention of one pass: decoding sequences by one kernel, chunks by another."""

    def __init__(self, over: ForwardPass, inputs: PassInputs, shape: PassShape, cos_sin: Tensor) -> None:
        self._ops, self._language = over.ops, over.language
        self._inputs, self._shape, self._cos_sin = inputs, shape, cos_sin
        self._slot_mapping = inputs.slot_mapping.long()
        tables = over.slot_table.block_tables
        self._decode_blocks, self._chunk_blocks = tables[inputs.decode_slots], tables[inputs.chunk_slots]

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """Write the keys and values of a layer's product (T, (query_heads + 2 kv_heads) D); return (T, heads D)."""
        cache, inputs, decode = self._language.cache, self._inputs, self._shape.decode
        heads, size = self._language.weights.layers[layer].heads, cache.block_size
        keys, values = cache.keys[layer], cache.values[layer]
        # rows that pad the pass stay as they are: no other row reads them
        out = qkv.new_empty(len(qkv), heads.query_heads * heads.head_dim)
        given = (qkv, heads, self._cos_sin, keys, values, self._slot_mapping)
        blocks, lengths = self._decode_blocks, inputs.decode_lengths
        if not self._shape.chunks:
            self._ops.attend_step(*given, blocks, lengths, size, out)
            return out
        q = self._ops.rotate(*given)
        if decode:
            self._ops.attend_paged(q[:decode], keys, values, blocks, lengths, size, out[:decode])
        lengths, blocks = inputs.chunk_lengths, self._chunk_blocks
        self._ops.attend_chunks(q, keys, values, blocks, inputs.cu_seqlens, lengths, size, out)
        return out


def chunk_features(chunks: Sequence[Chunk], features: ImageFeatures) -> list[Tensor]:
    """Return the features of the chunks' image tokens, (1 + deepstack layers, tokens, H) for each image of each chunk.

    Images that are not in the feature cache are computed.
    """
    wanted = [
        ImageRows(image, chunk.start + begin - image.start, chunk.start + end - image.start)
        for chunk in chunks
        for image, (begin, end) in zip(chunk.images, image_rows(chunk), strict=True)
    ]
    if not wanted:
        return []
    continued = {image.digest for chunk in chunks for image in chunk.images if image.stop > chunk.stop}
    return features.get(wanted, needed_later=continued)
