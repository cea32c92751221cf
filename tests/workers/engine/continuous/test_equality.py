"""Point by point the same answers as `generate`'s, in float32 on the CPU, in any company."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.engine.conftest import image, make_prompt
from tests.workers.engine.continuous.conftest import Bench, Sizes, with_params
from training.questions import held_out
from workers.engine.base import Prompt, Turn
from workers.engine.image import RGBImage
from workers.engine.model.image_sizes import read_fit

#: tokens of an answer at most
MOST = 20

CHATS: tuple[tuple[Turn, ...], ...] = (
    (Turn("user", ("hello",)),),
    (Turn("user", ("x",)),),
    (Turn("user", (image(0), "what is it?")),),
    (Turn("user", (image(1), "what is it?")),),
    (Turn("user", ("before ", image(2), "and after")),),
    (Turn("user", (image(3), image(3), "the same twice?")),),
    (Turn("user", (image(1), "and", image(2), "and", image(4), "differ how?")),),
    (Turn("user", ("long " * 40,)),),
    (Turn("user", (image(7),)),),
    (Turn("user", (image(5), "a?")), Turn("assistant", ("b",)), Turn("user", ("c?",))),
    # an answer that has begun
    (Turn("user", (image(6), "a?")), Turn("assistant", ("It is",))),
)
PROMPTS = [make_prompt(f"p{number}", turns, MOST) for number, turns in enumerate(CHATS)]

#: which prompt, the most tokens of its answer, and the turn of the loop at which it comes
arrivals = st.lists(
    st.tuples(st.integers(0, len(PROMPTS) - 1), st.integers(1, MOST), st.integers(0, 40)), min_size=1, max_size=7
)
sizes = st.builds(
    Sizes,
    slots=st.integers(1, 5),
    # the longest prompt and its answer take 276 tokens
    blocks=st.integers(30, 120),
    block_size=st.sampled_from([10, 16]),
    prefill_tokens=st.integers(5, 300),
    reuse_bytes=st.sampled_from([0, 20_000, 10**9]),
)


@pytest.fixture(params=["dense_bench", "expert_bench"], scope="session")
def bench(request: pytest.FixtureRequest) -> Bench:
    found: Bench = request.getfixturevalue(request.param)
    return found


def expected(bench: Bench, prompt: Prompt) -> tuple[str, str, int]:
    """By `generate`: the tokens that are told, why they end, and how many there are."""
    ends = bench.ends
    tokens = bench.expected(with_params(prompt, max_new_tokens=MOST))[: prompt.params.max_new_tokens]
    shown = [token for token in tokens if token not in ends]
    return " ".join(map(str, shown)), "length" if len(shown) == len(tokens) else "stop", len(tokens)


def test_the_prompts_have_answers_of_their_own(bench: Bench) -> None:
    answers = {expected(bench, prompt)[0] for prompt in PROMPTS}

    assert len(answers) == len(PROMPTS)
    assert sum(len(set(answer.split())) for answer in answers) > 8 * len(PROMPTS)


@settings(deadline=None, max_examples=60)
@given(arrivals=arrivals, sizes=sizes)
def test_answers_are_those_of_generate_token_for_token(
    bench: Bench, arrivals: list[tuple[int, int, int]], sizes: Sizes
) -> None:
    at: dict[int, list[Prompt]] = defaultdict(list)
    for number, (which, most, turn) in enumerate(arrivals):
        at[turn].append(with_params(PROMPTS[which], id=f"{number}", max_new_tokens=most))

    made = bench.answer(sizes, at)

    for prompt in (prompt for some in at.values() for prompt in some):
        completion = made[prompt.id]
        assert (completion.text, completion.finish_reason, completion.completion_tokens) == expected(bench, prompt)
        assert completion.prompt_tokens == bench.request(prompt).num_tokens


@pytest.mark.parametrize("prefill_tokens", [1, 7, 20, 64])
def test_so_they_are_however_a_prompt_is_cut(bench: Bench, prefill_tokens: int) -> None:
    made = bench.answer(Sizes(prefill_tokens=prefill_tokens), {0: list(PROMPTS)})

    assert {id: each.text for id, each in made.items()} == {p.id: expected(bench, p)[0] for p in PROMPTS}


def test_so_they_are_when_there_is_room_for_one_at_a_time(bench: Bench) -> None:
    longest = max(bench.request(prompt).num_tokens for prompt in PROMPTS) + MOST - 1
    sizes = Sizes(slots=5, blocks=-(-longest // 16))

    made = bench.answer(sizes, {0: list(PROMPTS)})

    assert {id: each.text for id, each in made.items()} == {p.id: expected(bench, p)[0] for p in PROMPTS}


def test_the_bundled_model_answers_as_generate_does(bundled_bench: Bench) -> None:
    fit = read_fit(bundled_bench.pipe.processor.image_processor)
    draw = random.Random(3)
    items = list(held_out(24))
    images = [RGBImage.from_pil(item.image.resize(fit.size(*item.image.size))) for item in items]
    prompts = [
        make_prompt(f"q{n}", (Turn("user", (*draw.sample(images, n % 3), images[n], item.question)),), 16)
        for n, item in enumerate(items)
    ]
    at: dict[int, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        at[draw.randrange(30)].append(prompt)

    made = bundled_bench.answer(Sizes(slots=6, blocks=120, prefill_tokens=100), at)

    assert [made[p.id].text.split() for p in prompts] == [
        [str(t) for t in bundled_bench.expected(p) if t not in bundled_bench.ends] for p in prompts
    ]
    assert {completion.finish_reason for completion in made.values()} == {"stop"}


#: temperature, top_p and seed
draws = st.tuples(st.floats(0.3, 2), st.floats(0.1, 1), st.integers(0, 2**63 - 1))


@settings(deadline=None, max_examples=20)
@given(drawn=draws, company=arrivals, others=draws, turn=st.integers(0, 30), sizes=sizes)
def test_a_seed_draws_the_same_answer_in_any_company(
    bench: Bench,
    drawn: tuple[float, float, int],
    company: list[tuple[int, int, int]],
    others: tuple[float, float, int],
    turn: int,
    sizes: Sizes,
) -> None:
    temperature, top_p, seed = drawn
    seeded = with_params(PROMPTS[3], id="seeded", temperature=temperature, top_p=top_p, seed=seed)
    at: dict[int, list[Prompt]] = defaultdict(list, {turn: [seeded]})
    for number, (which, most, when) in enumerate(company):
        other = with_params(PROMPTS[which], id=f"{number}", max_new_tokens=most)
        if number % 2:
            other = with_params(other, temperature=others[0], top_p=others[1], seed=others[2])
        at[when].append(other)

    assert bench.answer(sizes, at)["seeded"] == bench.answer(Sizes(), {0: [seeded]})["seeded"]


def test_seeds_draw_different_answers_and_none_draws_another_each_time(bench: Bench) -> None:
    drawn = with_params(PROMPTS[3], temperature=1.5)
    seeded = [with_params(drawn, id=f"seed {seed}", seed=seed) for seed in range(8)]
    free = [with_params(drawn, id=f"none {number}") for number in range(8)]

    made = bench.answer(Sizes(slots=8), {0: seeded + free})

    # some end at once
    assert len({made[prompt.id].text for prompt in seeded}) > 5
    assert len({made[prompt.id].text for prompt in free}) > 3


def test_a_greedy_answer_is_not_changed_by_one_that_is_drawn_beside_it(bench: Bench) -> None:
    prompts = [with_params(p, id=f"{n}", temperature=n % 2, seed=n) for n, p in enumerate(PROMPTS)]

    made = bench.answer(Sizes(), {0: prompts})

    greedy = [p for p in prompts if not p.params.temperature]
    assert [made[p.id].text for p in greedy] == [expected(bench, with_params(p, seed=None))[0] for p in greedy]


def test_the_smallest_top_p_draws_the_likeliest_tokens(bench: Bench) -> None:
    prompts = [with_params(p, temperature=2.0, top_p=top_p) for p, top_p in zip(PROMPTS, (1e-6, 1e-60), strict=False)]

    made = bench.answer(Sizes(), {0: prompts})

    assert [made[p.id].text for p in prompts] == [expected(bench, p)[0] for p in PROMPTS[:2]]
