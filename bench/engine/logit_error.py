"""Measures how far the engine's logits are from those of float32 arithmetic with the same, dequantized weights.

One prompt of text is computed with the engine's operations, and layer by layer with the reference operations in
float32, so that at most one layer is there in float32. Tokens go to the same experts in both: where two experts are as
good as equal, which one is chosen is no error of the arithmetic, and with random weights they often are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import linear

from bench.engine.report import Figure, Report
from bench.engine.targets import Wanted
from workers.engine.base import Engine
from workers.engine.continuous.engine import ContinuousEngine
from workers.engine.continuous.model.language import LanguageModel
from workers.engine.continuous.model.weights import Dense, Experts, LanguageWeights, Layer
from workers.engine.continuous.ops import reference
from workers.engine.continuous.ops.base import Float8Matrix, Matrix, Route
from workers.engine.continuous.ops.float8 import dequantize
from workers.engine.continuous.ops.select import ops_for

#: of the prompt
TOKENS = 200
_BLOCK = 64

#: by layer: the experts of each token, (T, k)
Chosen = dict[int, Tensor]


def engine_weights(engine: Engine) -> LanguageWeights:
    """Return the weights of a started continuous engine."""
    assert isinstance(engine, ContinuousEngine)
    # nothing else than a benchmark wants them
    return engine.built.loop._runner._pass.language.weights


def report_error(report: Report, weights: LanguageWeights, wanted: Wanted) -> None:
    """Add the relative error of the logits, of all tokens of the prompt together."""
    tokens = torch.randint(263, len(weights.head), (TOKENS,), generator=torch.Generator().manual_seed(5))
    tokens = tokens.to(weights.head.device)
    with torch.inference_mode():
        made, chosen = _engine_logits(weights, tokens)
        exact = _float32_logits(weights, tokens, chosen)
        error = float((made.float() - exact).norm() / exact.norm())
        same = float((made.argmax(-1) == exact.argmax(-1)).float().mean())
    kind = "fp8" if is_float8(weights) else str(weights.head.dtype).removeprefix("torch.")
    notes = {"tokens": TOKENS, "same_greedy_token": round(same, 3)}
    report.add(Figure(f"relative error of {kind} logits", "", [error], "less", *wanted, notes=notes))


def is_float8(weights: LanguageWeights) -> bool:
    """Whether the products of the language model are in float8."""
    return isinstance(weights.layers[0].qkv, Float8Matrix)


def _engine_logits(weights: LanguageWeights, tokens: Tensor) -> tuple[Tensor, Chosen]:
    """Return the logits (T, vocabulary) and the experts that were chosen."""
    ops, count, device = ops_for(tokens.device), len(tokens), tokens.device
    blocks = -(-count // _BLOCK)
    model = LanguageModel(weights, weights.new_kv_cache(blocks, _BLOCK), ops)
    table = torch.arange(blocks, dtype=torch.int32, device=device)[None]
    ends = torch.tensor([0, count], dtype=torch.int32, device=device)

    at = torch.arange(count, device=device)
    cos_sin = model.cos_sin(at)

    def attend(layer: int, qkv: Tensor) -> Tensor:
        keys, values = model.cache.keys[layer], model.cache.values[layer]
        q = ops.rotate(qkv, weights.layers[layer].heads, cos_sin, keys, values, at)
        out = q.new_zeros(count, q.shape[1] * q.shape[2])
        ops.attend_chunks(q, keys, values, table, ends, ends[1:], _BLOCK, out)
        return out

    with _recorded(model) as chosen:
        h = model.forward(model.embed(tokens), attend)
    return model.logits(h), chosen


@contextmanager
def _recorded(model: LanguageModel) -> Iterator[Chosen]:
    chosen: Chosen = {}
    for layer, route in list(model.routes.items()):

        def recorded(logits: Tensor, layer: int = layer, route: Route = route) -> tuple[Tensor, Tensor]:
            weights, chosen[layer] = route(logits)
            return weights, chosen[layer]

        model.routes[layer] = recorded
    yield chosen


def _float32_logits(weights: LanguageWeights, tokens: Tensor, chosen: Chosen) -> Tensor:
    count = len(tokens)
    wide = replace(weights, layers=weights.layers[:1]).new_kv_cache(0, count)
    keys, values = wide.keys[0].float(), wide.values[0].float()
    at = torch.arange(count, device=tokens.device)
    cos_sin = LanguageModel(weights, wide, reference).cos_sin(at)
    table, ends = at.new_zeros(1, 1), torch.tensor([0, count], device=tokens.device)
    delta, residual = weights.embedding[tokens].float(), None
    for number, narrow in enumerate(weights.layers):
        layer = _float32(narrow)
        h, residual = reference.add_norm(delta, residual, layer.input_norm, weights.epsilon)
        q = reference.rotate(linear(h, _matrix(layer.qkv)), layer.heads, cos_sin, keys, values, at)
        attended = torch.zeros(count, q.shape[1] * q.shape[2], device=q.device)
        reference.attend_chunks(q, keys, values, table, ends, ends[1:], count, attended)
        h, residual = reference.add_norm(
            linear(attended, _matrix(layer.out)), residual, layer.post_norm, weights.epsilon
        )
        delta = _feed_forward(layer.feed_forward, h, chosen.get(number))
    h, _ = reference.add_norm(delta, residual, weights.norm.float(), weights.epsilon)
    return torch.cat([linear(h, part.float()) for part in weights.head.split(16_384)], dim=1)


def _feed_forward(part: Dense | Experts, h: Tensor, chosen: Tensor | None) -> Tensor:
    if isinstance(part, Dense):
        return linear(reference.silu_product(linear(h, _matrix(part.gate_up))), _matrix(part.down))
    assert chosen is not None
    picked = linear(h, part.router).softmax(-1).gather(-1, chosen.long())
    return reference.experts(h, picked / picked.sum(-1, keepdim=True), chosen, part.gate_up, part.down)


def _float32(layer: Layer) -> Layer:
    heads = replace(layer.heads, query_norm=layer.heads.query_norm.float(), key_norm=layer.heads.key_norm.float())
    part = layer.feed_forward
    feed_forward: Dense | Experts
    if isinstance(part, Dense):
        feed_forward = Dense(_matrix(part.gate_up), _matrix(part.down))
    else:
        feed_forward = Experts(part.router.float(), _matrix(part.gate_up), _matrix(part.down), part.top_k)
    norms = {"input_norm": layer.input_norm.float(), "post_norm": layer.post_norm.float()}
    return replace(
        layer, **norms, heads=heads, qkv=_matrix(layer.qkv), out=_matrix(layer.out), feed_forward=feed_forward
    )


def _matrix(matrix: Matrix) -> Tensor:
    return (matrix if isinstance(matrix, Tensor) else dequantize(matrix)).float()
