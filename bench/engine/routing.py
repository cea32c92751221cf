"""Replaces the experts that a router chooses by uniformly drawn ones, at the router's own cost.

Random weights send all tokens to few experts, and a step reads only their weights; a trained model spreads the tokens
of a full batch over nearly all experts. Benchmarks on random weights therefore use spread routing. Experts are drawn
beforehand into a table: a step only picks other rows of it, with two small kernels per layer, also in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from workers.engine.continuous.ops.base import Route

#: `plain` is the router's own choice
Routing = Literal["plain", "spread"]

#: rows of the table, a power of two
ROWS = 65_536

#: the most tokens of a batch
_MAX_TOKENS = 4 * ROWS
#: row offsets between steps and between layers, both odd primes
_STRIDE = 7919
_LAYER_STRIDE = 4099


class Draw:
    """A table of distinct experts per row; a counter on the device changes the rows of the tokens at each step."""

    def __init__(self, experts: int, count: int, device: torch.device | str, seed: int = 0) -> None:
        generator = torch.Generator(device).manual_seed(seed)
        rows = torch.rand(ROWS, experts, device=device, generator=generator).argsort(-1)[:, :count]
        # twice, so that row + counter needs no modulo
        self._table = torch.cat([rows, rows]).int()
        self._order = torch.randint(ROWS, (_MAX_TOKENS,), device=device, generator=generator)
        self._counter = torch.zeros((), dtype=torch.long, device=device)

    def step(self) -> None:
        """Move on to other rows."""
        self._counter.add_(_STRIDE).bitwise_and_(ROWS - 1)

    def choose(self, tokens: int, layer: int) -> Tensor:
        """Return the experts of a layer's tokens, (tokens, k) int32."""
        begin = layer * _LAYER_STRIDE % ROWS
        return self._table.index_select(0, self._order[begin : begin + tokens] + self._counter)


def spread(routes: MutableMapping[int, Route], experts: int, count: int, device: torch.device | str) -> None:
    """Wrap each layer's route in place: its weights stay, its experts are drawn."""
    draw = Draw(experts, count, device)
    first = min(routes)
    for layer in routes:
        routes[layer] = _drawn(routes[layer], draw, layer, steps=layer == first)


def _drawn(route: Route, draw: Draw, layer: int, steps: bool) -> Route:
    def chosen(logits: Tensor) -> tuple[Tensor, Tensor]:
        weights, own = route(logits)
        if steps:
            draw.step()
        return weights, draw.choose(len(own), layer).to(own.dtype)

    return chosen


@contextmanager
def spreading() -> Iterator[None]:
    """Spread the routes of every language model that the continuous engine makes inside the context."""
    from workers.engine.continuous.model.language import LanguageModel
    from workers.engine.continuous.model.weights import Experts

    make = LanguageModel.__init__

    def spread_too(self: LanguageModel, *arguments: Any, **named: Any) -> None:
        make(self, *arguments, **named)
        mixtures = [layer.feed_forward for layer in self.weights.layers if isinstance(layer.feed_forward, Experts)]
        if mixtures:
            spread(self.routes, len(mixtures[0].router), mixtures[0].top_k, mixtures[0].router.device)

    LanguageModel.__init__ = spread_too  # type: ignore[method-assign]  # until the context ends
    try:
        yield
    finally:
        LanguageModel.__init__ = make  # type: ignore[method-assign]  # as it was


@contextmanager
def spread_modules(model: Any) -> Iterator[None]:
    """Spread the routers of a transformers model inside the context."""
    gates = [module for module in model.modules() if type(module).__name__.endswith("TopKRouter")]
    if not gates:
        yield
        return
    draw = Draw(gates[0].num_experts, gates[0].top_k, gates[0].weight.device)
    with ExitStack() as stack:
        for layer, gate in enumerate(gates):
            stack.callback(delattr, gate, "forward")
            gate.forward = _drawn_module(gate.forward, draw, layer)
        yield


def _drawn_module(forward: Callable[[Tensor], tuple[Tensor, ...]], draw: Draw, layer: int) -> Any:
    def chosen(hidden: Tensor) -> tuple[Tensor, ...]:
        logits, weights, own = forward(hidden)
        if layer == 0:
            draw.step()
        return logits, weights, draw.choose(len(own), layer).to(own.dtype)

    return chosen
