"""Replaces a router's choice by a uniform draw, at the router's own cost.

Random weights send all tokens to few experts, whose weights are then all that a step reads; a trained model spreads
the tokens of a full batch over nearly all experts. So what is timed on random weights is timed with spread routing.
The draw is made beforehand: a step only picks other rows of a table each time, two small kernels a layer, also when
it is replayed as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from workers.engine.continuous.ops.base import Route

#: `plain` is what the weights say
Routing = Literal["plain", "spread"]

#: rows of the table; a power of two
ROWS = 65_536

#: most tokens of one batch
_MOST_TOKENS = 4 * ROWS
#: between the rows of one step and the next, and of one layer and the next; odd and prime
_STRIDE = 7919
_LAYER_STRIDE = 4099


class Draw:
    """Rows of distinct experts; which token gets which row changes from step to step by a counter on the device."""

    def __init__(self, experts: int, count: int, device: torch.device | str, seed: int = 0) -> None:
        generator = torch.Generator(device).manual_seed(seed)
        rows = torch.rand(ROWS, experts, device=device, generator=generator).argsort(-1)[:, :count]
        # twice, so that a row's number and the counter need no remainder
        self._table = torch.cat([rows, rows]).int()
        self._order = torch.randint(ROWS, (_MOST_TOKENS,), device=device, generator=generator)
        self._counter = torch.zeros((), dtype=torch.long, device=device)

    def step(self) -> None:
        """From here on, other rows."""
        self._counter.add_(_STRIDE).bitwise_and_(ROWS - 1)

    def choose(self, tokens: int, layer: int) -> Tensor:
        """(tokens, k) int32."""
        begin = layer * _LAYER_STRIDE % ROWS
        return self._table.index_select(0, self._order[begin : begin + tokens] + self._counter)


def spread(routes: MutableMapping[int, Route], experts: int, count: int, device: torch.device | str) -> None:
    """Wrap each layer's route in place: the weights stay its own, the experts are drawn."""
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
    """Every language model of the continuous engine that is made inside is spread from its first step on."""
    from workers.engine.continuous.model.language import LanguageModel
    from workers.engine.continuous.model.weights import Experts

    make = LanguageModel.__init__

    def spread_too(self: LanguageModel, *arguments: Any, **named: Any) -> None:
        make(self, *arguments, **named)
        mixtures = [layer.feed_forward for layer in self.weights.layers if isinstance(layer.feed_forward, Experts)]
        if mixtures:
            spread(self.routes, len(mixtures[0].router), mixtures[0].count, mixtures[0].router.device)

    LanguageModel.__init__ = spread_too  # type: ignore[method-assign]
    try:
        yield
    finally:
        LanguageModel.__init__ = make  # type: ignore[method-assign]


@contextmanager
def spread_modules(model: Any) -> Iterator[None]:
    """The same for transformers' own modules, for as long as this lasts."""
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
