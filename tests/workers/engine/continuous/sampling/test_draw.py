from __future__ import annotations

import math
from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.continuous.sampling.draw import sample_top_p, uniform

LOGITS = [2.0, -1.0, 1.5, 0.0, 1.9, -3.0, 0.5, -30.0]
ROWS = 40_000
WORD = 2**64


def chances(temperature: float, top_p: float) -> list[float]:
    """What draws are to be like, by the definitions: softmax, and the likeliest whose sum reaches `top_p`."""
    weights = [math.exp(logit / temperature) for logit in LOGITS]
    of_each = [weight / sum(weights) for weight in weights]
    likeliest = sorted(range(len(LOGITS)), key=lambda token: -of_each[token])
    sums = accumulate(of_each[token] for token in likeliest)
    kept = set(likeliest[: 1 + next((n for n, total in enumerate(sums) if total >= top_p - 1e-9), len(LOGITS))])
    total = sum(of_each[token] for token in kept)
    return [of_each[token] / total if token in kept else 0.0 for token in range(len(LOGITS))]


def draw_rows(temperature: float, top_p: float, lot: torch.Tensor) -> torch.Tensor:
    rows = len(lot)
    logits = torch.tensor(LOGITS).expand(rows, -1)
    return sample_top_p(logits, torch.full((rows,), temperature), torch.full((rows,), top_p), lot)


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.6, 0.3, 1e-6])
@pytest.mark.parametrize("temperature", [0.01, 0.5, 1.0, 2.0])
def test_tokens_are_drawn_by_their_chances(temperature: float, top_p: float) -> None:
    # evenly over what a lot can be: no luck in it
    lot = (torch.arange(ROWS) + 0.5) / ROWS

    drawn = draw_rows(temperature, top_p, lot)

    shares = torch.bincount(drawn, minlength=len(LOGITS)) / ROWS
    assert shares.tolist() == pytest.approx(chances(temperature, top_p), abs=3 / ROWS)


def test_rows_are_drawn_each_by_its_own_numbers() -> None:
    count = 64
    logits = torch.randn(count, 300, generator=torch.Generator().manual_seed(1))
    temperature, top_p, lot = torch.linspace(0.01, 2, count), torch.linspace(0.01, 1, count), torch.rand(count)

    together = sample_top_p(logits, temperature, top_p, lot)

    alone = [sample_top_p(logits[n, None], temperature[n, None], top_p[n, None], lot[n, None]) for n in range(count)]
    assert together.tolist() == torch.cat(alone).tolist()


@pytest.mark.parametrize("lot", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("top_p", [1.0, 0.5, 1e-6, 1e-60])
def test_the_outermost_lots_draw_tokens_of_the_nucleus(lot: float, top_p: float) -> None:
    (token,) = draw_rows(1.0, top_p, torch.tensor([lot])).tolist()

    assert chances(1.0, max(top_p, 1e-6))[token] > 0


def test_a_row_of_many_alike_draws_the_first_and_the_last_of_them() -> None:
    words = 150_000
    lots = torch.tensor([0.0, 0.5, 1 - 2**-24])

    drawn = sample_top_p(torch.zeros(3, words), torch.ones(3), torch.ones(3), lots)

    assert drawn[0] == 0
    assert drawn[1].item() == pytest.approx(words / 2, rel=0.01)
    assert words * 0.99 < drawn[2] < words


def test_logits_that_are_no_numbers_draw_a_token_and_break_nothing() -> None:
    broken = torch.tensor([[math.nan] * 4, [math.inf, 0, 0, 0], [0.0, 1, 2, 3]])

    drawn = sample_top_p(broken, torch.ones(3), torch.ones(3), torch.full((3,), 0.999))

    assert all(0 <= token < 4 for token in drawn.tolist())
    # the least likely of those that are as they should be
    assert drawn[2] == 0


def splitmix64(seed: int, number: int) -> int:
    """Steele, Lea and Flood, 2014: the `number`-th output, in whole numbers of any size."""
    mixed = (seed + number * 0x9E3779B97F4A7C15) % WORD
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % WORD
    return mixed ^ (mixed >> 31)


@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 300_000)), min_size=1, max_size=20))
def test_lots_are_those_of_splitmix64(asked: list[tuple[int, int]]) -> None:
    seeds, numbers = (torch.tensor(values, dtype=torch.int64) for values in zip(*asked, strict=True))

    lots = uniform(seeds, numbers)

    assert lots.tolist() == [(splitmix64(seed, number) >> 40) / 2**24 for seed, number in asked]
    assert lots.dtype == torch.float32
    assert all(0 <= lot < 1 for lot in lots.tolist())


def test_splitmix64_itself_is_the_published_one() -> None:
    # of the reference program's sequence for seed 1234567
    assert [splitmix64(1234567, number) for number in (1, 2)] == [6457827717110365317, 3203168211198807973]


def test_lots_of_neighbouring_seeds_and_tokens_are_spread() -> None:
    seeds, numbers = torch.meshgrid(torch.arange(200), torch.arange(200), indexing="ij")

    lots = uniform(seeds.flatten(), numbers.flatten())

    shares = torch.histc(lots, bins=10, min=0, max=1) / len(lots)
    assert shares.tolist() == pytest.approx([0.1] * 10, abs=0.01)
    by_seed = lots.view(200, 200)
    assert torch.corrcoef(by_seed)[0, 1:].abs().max() < 0.4
