from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.engine.conftest import SOON, wait_until
from vqa.errors import Cancelled
from vqa.job import Lane
from workers.engine.base import Prompt, Turn
from workers.engine.held import Held
from workers.engine.waiting import BULK_TURN, Waiting

NEVER_S = 1000.0


def held(
    id: str = "a", lane: Lane = "interactive", words: int = 10, max_new_tokens: int = 100, temperature: float = 0
) -> Held:
    turns = (Turn("user", ("four " * words,)),)
    return Held(Prompt(id, turns, max_new_tokens, temperature=temperature, lane=lane))


def waiting_with(*prompts: Held, wait_s: float = 0.0) -> Waiting:
    waiting = Waiting(wait_s, max_image_tokens=1024)
    for prompt in prompts:
        waiting.add(prompt)
    return waiting


prompts = st.builds(
    held,
    lane=st.sampled_from(["interactive", "bulk"]),
    words=st.integers(0, 2000),
    max_new_tokens=st.integers(1, 2000),
    temperature=st.sampled_from([0.0, 0.5]),
)


@given(everything=st.lists(prompts, min_size=1, max_size=20), limit=st.integers(1, 6))
def test_every_prompt_is_taken_once_in_microbatches_that_suit(everything: list[Held], limit: int) -> None:
    waiting = waiting_with(*everything)
    taken: list[Held] = []

    while len(taken) < len(everything):
        microbatch = waiting.take(limit)
        assert microbatch is not None
        assert 1 <= len(microbatch) <= limit
        assert len({prompt.prompt.temperature for prompt in microbatch}) == 1
        assert all(prompt.prompt.max_new_tokens <= 4 * microbatch[0].prompt.max_new_tokens for prompt in microbatch)
        taken += microbatch

    assert len(taken) == len(set(taken))


@given(everything=st.lists(prompts, min_size=1, max_size=20))
def test_a_microbatch_begins_with_the_longest_waiting_interactive_prompt(everything: list[Held]) -> None:
    interactive = [prompt for prompt in everything if prompt.prompt.lane == "interactive"]

    microbatch = waiting_with(*everything).take(4)

    assert microbatch is not None
    assert microbatch[0] is (interactive or everything)[0]


def test_the_nearest_lengths_run_together() -> None:
    first, near, nearer, far = held("a", words=100), held("b", words=180), held("c", words=120), held("d", words=4000)
    waiting = waiting_with(first, near, far, nearer)

    assert waiting.take(2) == [first, nearer]
    assert waiting.take(2) == [near]
    assert waiting.take(2) == [far]


def test_interactive_prompts_join_before_bulk_ones_that_are_nearer() -> None:
    first, bulk, interactive = held("a"), held("b", "bulk"), held("c", words=20)

    assert waiting_with(first, bulk, interactive).take(2) == [first, interactive]


def test_bulk_begins_one_microbatch_in_twenty() -> None:
    waiting = waiting_with(held("bulk", "bulk"), *(held(str(number)) for number in range(30)))

    firsts = [microbatch[0].prompt.id for _ in range(BULK_TURN) if (microbatch := waiting.take(1))]

    assert firsts[:-1] == [str(number) for number in range(BULK_TURN - 1)]
    assert firsts[-1] == "bulk"


def test_a_microbatch_that_is_not_full_waits_a_little() -> None:
    started = time.monotonic()
    waiting = waiting_with(held(), wait_s=0.2)

    assert waiting.take(2)
    assert time.monotonic() - started >= 0.2


def test_a_microbatch_goes_when_it_is_full() -> None:
    waiting = waiting_with(held("a"), wait_s=NEVER_S)
    taken: list[list[Held] | None] = []
    taker = threading.Thread(target=lambda: taken.append(waiting.take(2)))
    taker.start()
    waiting.add(held("b"))
    taker.join(SOON)

    assert [prompt.prompt.id for prompt in taken[0] or ()] == ["a", "b"]


def test_what_has_ended_is_not_taken() -> None:
    gone, here = held("gone"), held("here")
    waiting = waiting_with(gone, here)
    gone.fail(Cancelled("cancelled"))

    assert waiting.take(4) == [here]


@pytest.mark.parametrize("first", [True, False])
def test_closing_lets_whoever_waits_go(first: bool) -> None:
    waiting = waiting_with()
    taken: list[list[Held] | None] = []
    taker = threading.Thread(target=lambda: taken.append(waiting.take(2)))
    if first:
        waiting.close()
    taker.start()
    waiting.close()
    taker.join(SOON)

    wait_until(lambda: taken == [None])
