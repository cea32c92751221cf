"""The operations in plain torch: run on CPUs, and compared with the fused ones in tests. See `Ops`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from workers.engine.continuous.ops.base import Float8Matrix, Heads, Matrix, Spans
from workers.engine.continuous.ops.float8 import dequantize, rounded


def add_norm(delta: Tensor, residual: Tensor | None, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    residual = delta if residual is None else residual + delta
    return _rms_norm(residual, weight, epsilon), residual


def add_layer_norm(
    delta: Tensor | None, residual: Tensor, weight: Tensor, bias: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    residual = residual if delta is None else residual + delta
    return functional.layer_norm(residual, residual.shape[-1:], weight, bias, epsilon), residual


def rotate(qkv: Tensor, heads: Heads, cos_sin: Tensor, keys: Tensor, values: Tensor, slot_mapping: Tensor) -> Tensor:
    by_head = qkv.view(len(qkv), -1, heads.head_dim)
    q, k, v = by_head.split([heads.query_heads, heads.kv_heads, heads.kv_heads], dim=1)
    q = _rotate(_rms_norm(q, heads.query_norm, heads.epsilon), cos_sin)
    k = _rotate(_rms_norm(k, heads.key_norm, heads.epsilon), cos_sin)
    keys[slot_mapping], values[slot_mapping] = k, v
    return q


def rotate_patches(qkv: Tensor, heads: int, cos_sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = qkv.view(len(qkv), 3, heads, -1).unbind(1)
    return _rotate(q, cos_sin), _rotate(k, cos_sin), v


def attend(q: Tensor, k: Tensor, v: Tensor, spans: Spans) -> Tensor:
    parts = zip(q.split(spans.lengths), k.split(spans.lengths), v.split(spans.lengths), strict=True)
    return torch.cat([_attend_one(*one, False) for one in parts]).flatten(1)


def attend_paged(
    q: Tensor, keys: Tensor, values: Tensor, block_tables: Tensor, lengths: Tensor, block_size: int, out: Tensor
) -> None:
    written = lengths > 0
    q, block_tables, lengths = q[written], block_tables[written], lengths[written]
    if not len(q):
        return
    at = torch.arange(int(lengths.max()), device=q.device)
    positions = block_tables[:, at // block_size].long() * block_size + at % block_size
    inside = at < lengths[:, None]
    # an earlier sequence may have left NaN in these blocks, and 0 times NaN is NaN
    k, v = (cache[positions].where(inside[..., None, None], 0).transpose(1, 2) for cache in (keys, values))
    rows, heads, width = q.shape
    # the query heads that share keys become queries of one head
    grouped = q.view(rows, k.shape[1], -1, width)
    made = functional.scaled_dot_product_attention(grouped, k, v, attn_mask=inside[:, None, None])
    out[written] = made.reshape(rows, heads * width)


def attend_step(
    qkv: Tensor,
    heads: Heads,
    cos_sin: Tensor,
    keys: Tensor,
    values: Tensor,
    slot_mapping: Tensor,
    block_tables: Tensor,
    lengths: Tensor,
    block_size: int,
    out: Tensor,
) -> None:
    q = rotate(qkv, heads, cos_sin, keys, values, slot_mapping)
    attend_paged(q, keys, values, block_tables, lengths, block_size, out)


def attend_chunks(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    block_tables: Tensor,
    cu_seqlens: Tensor,
    lengths: Tensor,
    block_size: int,
    out: Tensor,
) -> None:
    for table, start, stop, length in zip(
        block_tables, cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), lengths.tolist(), strict=True
    ):
        if start < stop:
            at = torch.arange(length, device=q.device)
            positions = table[at // block_size].long() * block_size + at % block_size
            out[start:stop] = _attend_one(q[start:stop], keys[positions], values[positions], causal=True).flatten(1)


def linear(x: Tensor, weight: Matrix) -> Tensor:
    if isinstance(weight, Tensor):
        return functional.linear(x, weight)
    return functional.linear(rounded(x), dequantize(weight)).to(x.dtype)


def norm_linear(
    delta: Tensor, residual: Tensor | None, norm: Tensor, epsilon: float, weight: Matrix
) -> tuple[Tensor, Tensor, Tensor]:
    h, residual = add_norm(delta, residual, norm, epsilon)
    return linear(h, weight), h, residual


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.gelu(functional.linear(x, weight, bias), approximate="tanh")


def silu_product(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up


def route(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    weights, chosen = logits.softmax(-1, dtype=torch.float32).topk(top_k, dim=-1)
    return (weights / weights.sum(-1, keepdim=True)).to(logits.dtype), chosen.int()


def experts(x: Tensor, weights: Tensor, chosen: Tensor, gate_up: Matrix, down: Matrix) -> Tensor:
    out = torch.zeros_like(x)
    for expert in chosen.unique().tolist():
        tokens, which = torch.where(chosen == expert)
        made = linear(silu_product(linear(x[tokens], _of_expert(gate_up, expert))), _of_expert(down, expert))
        out.index_add_(0, tokens, made * weights[tokens, which, None])
    return out


def _of_expert(weights: Matrix, expert: int) -> Matrix:
    if isinstance(weights, Tensor):
        return weights[expert]
    return Float8Matrix(weights.values[expert], weights.scales[expert])


def _rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)).to(x.dtype)


def _rotate(x: Tensor, cos_sin: Tensor) -> Tensor:
    cos, sin = cos_sin[:, None].unbind(2)
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def _attend_one(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    mask = torch.ones(len(q), len(k), dtype=torch.bool, device=q.device).tril(len(k) - len(q)) if causal else None
    q, k, v = (part.transpose(0, 1)[None] for part in (q, k, v))
    made = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
    return made[0].transpose(0, 1)
