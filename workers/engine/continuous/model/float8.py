"""The language weights in float8, read from a checkpoint as it has them, or quantized one by one (VQA_QUANT=fp8).

transformers loads the model without its language layers (`workers.engine.model.loading`): its own float8 modules need
kernels that it downloads, and no more than one tensor should be on the card in the type of a bfloat16 checkpoint.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from vqa.errors import NotReady
from workers.engine.continuous.model.matrices import MatrixReader
from workers.engine.continuous.model.weights import (
    Dense,
    Experts,
    LanguageWeights,
    Layer,
    language_weights,
    layer_weights,
)
from workers.engine.continuous.ops.base import Heads, Matrix
from workers.engine.continuous.ops.float8 import quantize_matrix
from workers.engine.model.checkpoint import Checkpoint, open_checkpoint
from workers.engine.settings import EngineSettings

_FIRST_NORM = re.compile(r"(.*\blanguage_model\.(?:model\.)?layers\.)0\.input_layernorm\.weight")


def read_weights(model: Any, settings: EngineSettings) -> LanguageWeights:
    """Return the weights of a loaded model; if it was loaded without its layers, read them from its files.

    Layers of a model that `load` did not load (a benchmark's, of random weights) are quantized from memory.

    Raises NotReady.
    """
    text = model.model.language_model
    if len(text.layers) == text.config.num_hidden_layers:
        return language_weights(model, _quantized(text) if settings.quant == "fp8" else None)
    with open_checkpoint(settings, model.device) as checkpoint:
        matrices = MatrixReader(checkpoint, model.dtype, quantize=settings.quant == "fp8")
        reader = LayerReader(matrices, text.config, _prefix(checkpoint))
        return language_weights(model, [reader.layer(number) for number in range(text.config.num_hidden_layers)])


class LayerReader:
    """Reads the layers of a Qwen3-VL, dense or mixture of experts."""

    def __init__(self, matrices: MatrixReader, config: Any, prefix: str) -> None:
        self._matrices = matrices
        self._config = config
        self._prefix = prefix

    def layer(self, number: int) -> Layer:
        """Read one layer. Raises NotReady with the name of a tensor that is missing or does not fit."""
        config, at = self._config, f"{self._prefix}{number}."
        width, head_dim, attention = config.hidden_size, config.head_dim, f"{at}self_attn."
        queries, keys = (heads * head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
        parts = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
        return Layer(
            input_norm=self._matrices.tensor(f"{at}input_layernorm.weight", (width,)),
            qkv=self._matrices.joined({f"{attention}{part}.weight": rows for part, rows in parts.items()}, width),
            heads=Heads(
                query_heads=config.num_attention_heads,
                kv_heads=config.num_key_value_heads,
                head_dim=head_dim,
                query_norm=self._matrices.tensor(f"{attention}q_norm.weight", (head_dim,)),
                key_norm=self._matrices.tensor(f"{attention}k_norm.weight", (head_dim,)),
                epsilon=config.rms_norm_eps,
            ),
            out=self._matrices.joined({f"{attention}o_proj.weight": width}, queries),
            post_norm=self._matrices.tensor(f"{at}post_attention_layernorm.weight", (width,)),
            feed_forward=self._feed_forward(f"{at}mlp."),
        )

    def _feed_forward(self, at: str) -> Dense | Experts:
        config, checkpoint = self._config, self._matrices.checkpoint
        if f"{at}gate.weight" not in checkpoint:
            return self._dense(at, config.intermediate_size)
        count, inner, width = config.num_experts, config.moe_intermediate_size, config.hidden_size
        if f"{at}experts.gate_up_proj" in checkpoint:
            gate_up = self._matrices.stacked(f"{at}experts.gate_up_proj", (count, 2 * inner, width))
            down = self._matrices.stacked(f"{at}experts.down_proj", (count, width, inner))
        else:
            each = [self._dense(f"{at}experts.{number}.", inner) for number in range(count)]
            gate_up = self._matrices.stack([expert.gate_up for expert in each])
            down = self._matrices.stack([expert.down for expert in each])
        router = self._matrices.tensor(f"{at}gate.weight", (count, width))
        return Experts(router, gate_up, down, config.num_experts_per_tok)

    def _dense(self, at: str, inner: int) -> Dense:
        width = self._config.hidden_size
        gate_up = self._matrices.joined({f"{at}gate_proj.weight": inner, f"{at}up_proj.weight": inner}, width)
        return Dense(gate_up, self._matrices.joined({f"{at}down_proj.weight": width}, inner))


def _quantized(text: Any) -> list[Layer]:
    """Quantize the layers of a loaded model, which loses one after another."""
    made = []
    for number, module in enumerate(text.layers):
        layer = layer_weights(module, text.config)
        part = layer.feed_forward
        smaller = replace(part, gate_up=_in_float8(part.gate_up), down=_in_float8(part.down))
        made.append(replace(layer, qkv=_in_float8(layer.qkv), out=_in_float8(layer.out), feed_forward=smaller))
        text.layers[number] = nn.Identity()
    return made


def _in_float8(matrix: Matrix) -> Matrix:
    return quantize_matrix(matrix) if isinstance(matrix, Tensor) else matrix


def _prefix(checkpoint: Checkpoint) -> str:
    found = {match[1] for match in map(_FIRST_NORM.fullmatch, checkpoint.names) if match}
    if len(found) != 1:
        raise NotReady(f"the tensors of {checkpoint.model} (VQA_MODEL) are not named as those of a Qwen3-VL")
    return found.pop()
