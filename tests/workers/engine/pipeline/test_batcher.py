from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.engine.conftest import SOON, wait_until
from vqa.errors import Cancelled
from vqa.job import Lane
from workers.engine.base import Prompt
from workers.engine.fair_share import BULK_TURN
from workers.engine.pipeline.batcher import Ready, Waiting
from workers.engine.pipeline.encoding import Encoded
from workers.engine.runtime.pending import Held

NEVER_S = 1000.0


def ready(
    id: str = "a",
    lane: Lane = "interactive",
    tokens: int = 10,
    max_new_tokens: int = 100,
    alone: bool = False,
    **drawn: Any,
) -> Ready:
    prompt = Prompt(id, (), max_new_tokens, lane=lane, alone=alone, **drawn)
    return Ready(Held(prompt), cast(Encoded, SimpleNamespace(prompt_tokens=tokens)))


def add(waiting: Waiting, prompt: Ready) -> None:
    waiting.expect()
    waiting.arrived(prompt)


def waiting_with(*prompts: Ready, wait_s: float = 0.0) -> Waiting:
    waiting = Waiting(wait_s)
    for prompt in prompts:
        add(waiting, prompt)
    return waiting


prompts = st.builds(
    ready,
    lane=st.sampled_from(["interactive", "bulk"]),
    tokens=st.integers(1, 2000),
    max_new_tokens=st.integers(1, 2000),
    temperature=st.sampled_from([0.0, 0.5]),
    top_p=st.sampled_from([0.9, 1.0]),
    seed=st.sampled_from([None, None, 7]),
)
some_alone = st.builds(ready, lane=st.sampled_from(["interactive", "bulk"]), alone=st.booleans())


@given(everything=st.lists(prompts, min_size=1, max_size=20), limit=st.integers(1, 6))
@settings(deadline=None)
def test_every_prompt_is_taken_once_in_microbatches_that_suit(everything: list[Ready], limit: int) -> None:
    waiting = waiting_with(*everything)
    taken: list[Ready] = []

    while len(taken) < len(everything):
        microbatch = waiting.take(limit)
        assert microbatch is not None
        assert 1 <= len(microbatch) <= limit
        assert len({prompt.prompt.temperature for prompt in microbatch}) == 1
        if microbatch[0].prompt.temperature:
            assert len({prompt.prompt.top_p for prompt in microbatch}) == 1
            assert len(microbatch) == 1 or not any(prompt.prompt.seed for prompt in microbatch)
        assert all(prompt.prompt.max_new_tokens <= 4 * microbatch[0].prompt.max_new_tokens for prompt in microbatch)
        taken += microbatch
        waiting.done()

    assert len(taken) == len(set(taken))


@given(everything=st.lists(prompts, min_size=1, max_size=20))
@settings(deadline=None)
def test_a_microbatch_begins_with_the_longest_waiting_interactive_prompt(everything: list[Ready]) -> None:
    interactive = [prompt for prompt in everything if prompt.prompt.lane == "interactive"]

    microbatch = waiting_with(*everything).take(4)

    assert microbatch is not None
    assert microbatch[0] is (interactive or everything)[0]


def test_the_nearest_lengths_run_together() -> None:
    first, near, nearer, far = (
        ready("a", tokens=100),
        ready("b", tokens=180),
        ready("c", tokens=120),
        ready("d", tokens=4000),
    )
    waiting = waiting_with(first, near, far, nearer)

    assert waiting.take(2) == [first, nearer]
    assert waiting.take(2) == [near]
    assert waiting.take(2) == [far]


def test_interactive_prompts_join_before_bulk_ones_that_are_nearer() -> None:
    first, bulk, interactive = ready("a"), ready("b", "bulk"), ready("c", tokens=20)

    assert waiting_with(first, bulk, interactive).take(2) == [first, interactive]


def test_bulk_begins_one_microbatch_in_twenty() -> None:
    waiting = waiting_with(ready("bulk", "bulk"), *(ready(str(number)) for number in range(30)))

    firsts = [microbatch[0].prompt.id for _ in range(BULK_TURN) if (microbatch := waiting.take(1))]

    assert firsts[:-1] == [str(number) for number in range(BULK_TURN - 1)]
    assert firsts[-1] == "bulk"


def test_a_microbatch_that_is_not_full_waits_a_little() -> None:
    started = time.monotonic()
    waiting = waiting_with(ready(), wait_s=0.2)

    assert waiting.take(2)
    assert time.monotonic() - started >= 0.2


def test_a_microbatch_goes_when_it_is_full() -> None:
    waiting = waiting_with(ready("a"), wait_s=NEVER_S)
    taken: list[list[Ready] | None] = []
    taker = threading.Thread(target=lambda: taken.append(waiting.take(2)))
    taker.start()
    add(waiting, ready("b"))
    taker.join(SOON)

    assert [prompt.prompt.id for prompt in taken[0] or ()] == ["a", "b"]


def test_a_microbatch_waits_for_prompts_that_are_being_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.engine.pipeline.batcher._PATIENCE_S", SOON)
    waiting = waiting_with(ready("a"))
    waiting.expect()
    waiting.expect()
    arrivals = [threading.Timer(0.05, waiting.arrived, [None]), threading.Timer(0.1, waiting.arrived, [ready("b")])]
    for arrival in arrivals:
        arrival.start()

    assert [taken.prompt.id for taken in waiting.take(3) or ()] == ["a", "b"]


def test_a_prompt_that_takes_long_to_encode_does_not_hold_up_the_others() -> None:
    waiting = waiting_with(ready("a"))
    waiting.expect()

    assert waiting.take(2)


def test_what_has_ended_is_not_taken() -> None:
    gone, here = ready("gone"), ready("here")
    waiting = waiting_with(gone, here)
    gone.held.fail(Cancelled("cancelled"))

    assert waiting.take(4) == [here]


@pytest.mark.parametrize("first", [True, False])
def test_closing_lets_whoever_waits_go(first: bool) -> None:
    waiting = waiting_with()
    taken: list[list[Ready] | None] = []
    taker = threading.Thread(target=lambda: taken.append(waiting.take(2)))
    if first:
        waiting.close()
    taker.start()
    waiting.close()
    taker.join(SOON)

    wait_until(lambda: taken == [None])


@given(everything=st.lists(some_alone, min_size=1, max_size=16), limit=st.integers(1, 4), replicas=st.integers(1, 3))
@settings(deadline=None, max_examples=60)
def test_a_prompt_that_is_alone_shares_nothing_whoever_else_runs(
    everything: list[Ready], limit: int, replicas: int
) -> None:
    waiting = waiting_with(*everything)
    lock, running, taken, shared = threading.Lock(), list[Ready](), list[Ready](), list[Ready]()

    def replica() -> None:
        while (microbatch := waiting.take(limit)) is not None:
            with lock:
                running.extend(microbatch)
                taken.extend(microbatch)
                if len(running) > 1:
                    shared.extend(each for each in running if each.prompt.alone)
            # lets the others come in, if they are let in
            time.sleep(0.0005)
            with lock:
                running[:] = [each for each in running if each not in microbatch]
                last = len(taken) == len(everything)
            waiting.done()
            if last:
                waiting.close()

    threads = [threading.Thread(target=replica) for _ in range(replicas)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)

    assert not any(thread.is_alive() for thread in threads)
    assert shared == []
    assert len(taken) == len(set(taken)) == len(everything)


def test_one_that_is_alone_waits_for_the_others_and_they_for_it() -> None:
    waiting = waiting_with(ready("first"))
    assert waiting.take(1)
    story: list[str] = []
    for prompt in (ready("alone", alone=True), ready("later")):
        add(waiting, prompt)
    takers = [
        threading.Thread(target=lambda: story.extend(each.prompt.id for each in waiting.take(2) or ()))
        for _ in range(2)
    ]
    for taker in takers:
        taker.start()
    story.append("first is done")
    waiting.done()
    wait_until(lambda: len(story) == 2)
    story.append("alone is done")
    waiting.done()
    for taker in takers:
        taker.join(SOON)

    assert story == ["first is done", "alone", "alone is done", "later"]


def test_one_that_ends_before_it_may_run_alone_holds_nobody_up() -> None:
    waiting = waiting_with(ready("first"))
    waiting.take(1)
    alone = ready("alone", alone=True)
    add(waiting, alone)
    add(waiting, ready("later"))
    alone.held.fail(Cancelled("cancelled"))

    assert [each.prompt.id for each in waiting.take(1) or ()] == ["later"]


def test_one_that_is_alone_does_not_wait_for_company() -> None:
    waiting = waiting_with(ready(alone=True), wait_s=NEVER_S)

    assert waiting.take(4)


def test_one_with_a_seed_does_not_wait_for_company_that_it_may_not_have() -> None:
    waiting = waiting_with(ready("seeded", temperature=0.5, seed=7), ready("other", temperature=0.5), wait_s=NEVER_S)

    assert [each.prompt.id for each in waiting.take(4) or ()] == ["seeded"]


def test_what_draws_nothing_runs_together_whatever_it_asks_of_the_draw() -> None:
    greedy = [ready("a"), ready("b", top_p=0.5), ready("c", seed=7)]

    assert waiting_with(*greedy).take(4) == greedy


def test_bulk_that_is_alone_gets_its_turn_among_interactive_prompts_that_keep_coming() -> None:
    waiting = waiting_with(ready("bulk", "bulk", alone=True), ready("0"))
    order: list[str] = []

    while "bulk" not in order:
        microbatch = waiting.take(1)
        assert microbatch is not None
        order.append(microbatch[0].prompt.id)
        add(waiting, ready(str(len(order))))
        waiting.done()

    assert len(order) == BULK_TURN
