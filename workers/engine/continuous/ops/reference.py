"""The operations in plain torch: what a CPU runs, and what the fused ones are compared with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from workers.engine.continuous.ops.base import Heads, Spans


def add_norm(delta: Tensor, residual: Tensor | None, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """See `Ops`."""
    residual = delta if residual is None else residual + delta
    return _rms_norm(residual, weight, epsilon), residual


def add_layer_norm(
    delta: Tensor | None, residual: Tensor, weight: Tensor, bias: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """See `Ops`."""
    residual = residual if delta is None else residual + delta
    return functional.layer_norm(residual, residual.shape[-1:], weight, bias, epsilon), residual


def rotate(
    qkv: Tensor, heads: Heads, turns: Tensor, keys: Tensor, values: Tensor, places: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """See `Ops`."""
    by_head = qkv.view(len(qkv), -1, heads.width)
    q, k, v = by_head.split([heads.queries, heads.groups, heads.groups], dim=1)
    q = _turn(_rms_norm(q, heads.query_norm, heads.epsilon), turns)
    k = _turn(_rms_norm(k, heads.key_norm, heads.epsilon), turns)
    keys[places], values[places] = k, v
    return q, k, v


def rotate_patches(qkv: Tensor, heads: int, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See `Ops`."""
    q, k, v = qkv.view(len(qkv), 3, heads, -1).unbind(1)
    return _turn(q, turns), _turn(k, turns), v


def attend(q: Tensor, k: Tensor, v: Tensor, queries: Spans, keys: Spans, causal: bool) -> Tensor:
    """See `Ops`."""
    parts = zip(q.split(queries.lengths), k.split(keys.lengths), v.split(keys.lengths), strict=True)
    return torch.cat([_attend_one(q, k, v, causal) for q, k, v in parts]).flatten(1)


def attend_rows(q: Tensor, keys: Tensor, values: Tensor, tables: Tensor, lengths: Tensor, page_tokens: int) -> Tensor:
    """See `Ops`."""
    at = torch.arange(int(lengths.max()), device=q.device)
    places = tables[:, at // page_tokens].long() * page_tokens + at % page_tokens
    inside = at < lengths[:, None]
    # what others left in these pages may be no numbers, which no weight of 0 makes harmless
    k, v = (cache[places].where(inside[..., None, None], 0).transpose(1, 2) for cache in (keys, values))
    rows, heads, width = q.shape
    # the query heads that share keys become query rows
    grouped = q.view(rows, k.shape[1], -1, width)
    made = functional.scaled_dot_product_attention(grouped, k, v, attn_mask=inside[:, None, None])
    return made.reshape(rows, heads * width)


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `Ops`."""
    return functional.gelu(functional.linear(x, weight, bias), approximate="tanh")


def silu_product(gate_up: Tensor) -> Tensor:
    """See `Ops`."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up


def route(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """See `Ops`."""
    weights, chosen = logits.softmax(-1, dtype=torch.float32).topk(count, dim=-1)
    return (weights / weights.sum(-1, keepdim=True)).to(logits.dtype), chosen.int()


def experts(x: Tensor, weights: Tensor, chosen: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """See `Ops`."""
    out = torch.zeros_like(x)
    for expert in chosen.unique().tolist():
        tokens, which = torch.where(chosen == expert)
        made = functional.linear(silu_product(functional.linear(x[tokens], gate_up[expert])), down[expert])
        out.index_add_(0, tokens, made * weights[tokens, which, None])
    return out


def _rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)).to(x.dtype)


def _turn(x: Tensor, turns: Tensor) -> Tensor:
    cos, sin = turns[:, None].unbind(2)
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def _attend_one(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    mask = torch.ones(len(q), len(k), dtype=torch.bool, device=q.device).tril(len(k) - len(q)) if causal else None
    q, k, v = (part.transpose(0, 1)[None] for part in (q, k, v))
    made = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
    return made[0].transpose(0, 1)
