"""The draw that stands in for a trained router."""

import torch
from transformers import AutoModelForImageTextToText

from bench.engine import shape30b
from bench.engine.routing import Draw, Route, spread, spread_modules

EXPERTS, COUNT, TOKENS = 128, 8, 4096


def test_a_token_gets_distinct_experts_and_all_experts_are_as_likely() -> None:
    draw = Draw(EXPERTS, COUNT, "cpu")
    seen = torch.zeros(EXPERTS)
    for layer in range(16):
        chosen = draw.choose(TOKENS, layer)
        assert chosen.shape == (TOKENS, COUNT)
        assert all(len(set(row)) == COUNT for row in chosen[:64].tolist())
        seen += chosen.flatten().bincount(minlength=EXPERTS)
    share = seen / seen.sum() * EXPERTS
    assert 0.9 < share.min() < share.max() < 1.1


def test_each_step_draws_anew_and_each_layer_for_itself() -> None:
    draw = Draw(EXPERTS, COUNT, "cpu")
    rows = []
    for _ in range(200):
        draw.step()
        rows += [draw.choose(1, layer)[0].tolist() for layer in (0, 1)]
    assert len({tuple(row) for row in rows}) == len(rows)


def test_the_weights_stay_the_routers_own() -> None:
    def route(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights, chosen = logits.softmax(-1).topk(COUNT)
        return weights, chosen.int()

    routes: dict[int, Route] = {3: route, 5: route}
    spread(routes, EXPERTS, COUNT, "cpu")
    logits = torch.randn(64, EXPERTS)
    weights, first = routes[3](logits)
    assert torch.equal(weights, route(logits)[0])
    assert first.dtype == torch.int32
    _, again = routes[3](logits)
    assert not torch.equal(first, again)
    assert not torch.equal(again, routes[5](logits)[1])


def test_transformers_own_modules_are_spread_for_a_while() -> None:
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(shape30b.config_of("tiny"), dtype=torch.float32)
    gate = next(module for module in model.modules() if type(module).__name__.endswith("TopKRouter"))
    hidden = torch.randn(32, gate.hidden_dim)
    own = gate(hidden)
    with spread_modules(model):
        logits, weights, chosen = gate(hidden)
        assert torch.equal(logits, own[0])
        assert torch.equal(weights, own[1])
        assert not torch.equal(chosen, own[2])
        assert chosen.dtype == own[2].dtype
    assert torch.equal(gate(hidden)[2], own[2])
