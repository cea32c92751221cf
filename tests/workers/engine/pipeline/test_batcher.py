from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.engine.conftest import SOON, make_prompt, wait_until
from vqa.errors import Cancelled
from vqa.jobs.lane import Lane
from workers.engine.fair_share import BULK_TURN
from workers.engine.pipeline.batcher import Batcher, Encoded
from workers.engine.pipeline.encoding import ModelInputs
from workers.engine.runtime.pending import Pending

NEVER_S = 1000.0


def encoded(
    id: str = "a",
    lane: Lane = "interactive",
    tokens: int = 10,
    max_new_tokens: int = 100,
    alone: bool = False,
    **drawn: Any,
) -> Encoded:
    prompt = make_prompt(id, (), max_new_tokens, **drawn, lane=lane, alone=alone)
    return Encoded(Pending(prompt), cast(ModelInputs, SimpleNamespace(prompt_tokens=tokens, guide=None)))


def add(batcher: Batcher, prompt: Encoded) -> None:
    batcher.expect()
    batcher.add(prompt)


def batcher_with(*prompts: Encoded, wait_s: float = 0.0) -> Batcher:
    batcher = Batcher(wait_s)
    for prompt in prompts:
        add(batcher, prompt)
    return batcher


prompts = st.builds(
    encoded,
    lane=st.sampled_from(["interactive", "bulk"]),
    tokens=st.integers(1, 2000),
    max_new_tokens=st.integers(1, 2000),
    temperature=st.sampled_from([0.0, 0.5]),
    top_p=st.sampled_from([0.9, 1.0]),
    seed=st.sampled_from([None, None, 7]),
)
some_alone = st.builds(encoded, lane=st.sampled_from(["interactive", "bulk"]), alone=st.booleans())


@given(everything=st.lists(prompts, min_size=1, max_size=20), limit=st.integers(1, 6))
@settings(deadline=None)
def test_every_prompt_is_taken_once_in_microbatches_that_suit(everything: list[Encoded], limit: int) -> None:
    batcher = batcher_with(*everything)
    taken: list[Encoded] = []

    while len(taken) < len(everything):
        microbatch = batcher.take(limit)
        assert microbatch is not None
        assert 1 <= len(microbatch) <= limit
        assert len({prompt.prompt.params.temperature for prompt in microbatch}) == 1
        if microbatch[0].prompt.params.temperature:
            assert len({prompt.prompt.params.top_p for prompt in microbatch}) == 1
            assert len(microbatch) == 1 or not any(prompt.prompt.params.seed for prompt in microbatch)
        assert all(
            prompt.prompt.params.max_new_tokens <= 4 * microbatch[0].prompt.params.max_new_tokens
            for prompt in microbatch
        )
        taken += microbatch
        batcher.done()

    assert len(taken) == len(set(taken))


@given(everything=st.lists(prompts, min_size=1, max_size=20))
@settings(deadline=None)
def test_a_microbatch_begins_with_the_longest_waiting_interactive_prompt(everything: list[Encoded]) -> None:
    interactive = [prompt for prompt in everything if prompt.prompt.lane == "interactive"]

    microbatch = batcher_with(*everything).take(4)

    assert microbatch is not None
    assert microbatch[0] is (interactive or everything)[0]


def test_the_nearest_lengths_run_together() -> None:
    first, near, nearer, far = (
        encoded("a", tokens=100),
        encoded("b", tokens=180),
        encoded("c", tokens=120),
        encoded("d", tokens=4000),
    )
    batcher = batcher_with(first, near, far, nearer)

    assert batcher.take(2) == [first, nearer]
    assert batcher.take(2) == [near]
    assert batcher.take(2) == [far]


def test_interactive_prompts_join_before_bulk_ones_that_are_nearer() -> None:
    first, bulk, interactive = encoded("a"), encoded("b", "bulk"), encoded("c", tokens=20)

    assert batcher_with(first, bulk, interactive).take(2) == [first, interactive]


def test_bulk_begins_one_microbatch_in_twenty() -> None:
    batcher = batcher_with(encoded("bulk", "bulk"), *(encoded(str(number)) for number in range(30)))

    firsts = [microbatch[0].prompt.id for _ in range(BULK_TURN) if (microbatch := batcher.take(1))]

    assert firsts[:-1] == [str(number) for number in range(BULK_TURN - 1)]
    assert firsts[-1] == "bulk"


def test_a_microbatch_that_is_not_full_waits_a_little() -> None:
    started = time.monotonic()
    batcher = batcher_with(encoded(), wait_s=0.2)

    assert batcher.take(2)
    assert time.monotonic() - started >= 0.2


def test_a_microbatch_goes_when_it_is_full() -> None:
    batcher = batcher_with(encoded("a"), wait_s=NEVER_S)
    taken: list[list[Encoded] | None] = []
    taker = threading.Thread(target=lambda: taken.append(batcher.take(2)))
    taker.start()
    add(batcher, encoded("b"))
    taker.join(SOON)

    assert [prompt.prompt.id for prompt in taken[0] or ()] == ["a", "b"]


def test_a_microbatch_waits_for_prompts_that_are_being_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.engine.pipeline.batcher._ENCODING_WAIT_S", SOON)
    batcher = batcher_with(encoded("a"))
    batcher.expect()
    batcher.expect()
    arrivals = [threading.Timer(0.05, batcher.add, [None]), threading.Timer(0.1, batcher.add, [encoded("b")])]
    for arrival in arrivals:
        arrival.start()

    assert [taken.prompt.id for taken in batcher.take(3) or ()] == ["a", "b"]


def test_a_prompt_that_takes_long_to_encode_does_not_hold_up_the_others() -> None:
    batcher = batcher_with(encoded("a"))
    batcher.expect()

    assert batcher.take(2)


def test_what_has_ended_is_not_taken() -> None:
    gone, here = encoded("gone"), encoded("here")
    batcher = batcher_with(gone, here)
    gone.pending.fail(Cancelled("cancelled"))

    assert batcher.take(4) == [here]


@pytest.mark.parametrize("first", [True, False])
def test_closing_lets_whoever_waits_go(first: bool) -> None:
    batcher = batcher_with()
    taken: list[list[Encoded] | None] = []
    taker = threading.Thread(target=lambda: taken.append(batcher.take(2)))
    if first:
        batcher.close()
    taker.start()
    batcher.close()
    taker.join(SOON)

    wait_until(lambda: taken == [None])


@given(everything=st.lists(some_alone, min_size=1, max_size=16), limit=st.integers(1, 4), replicas=st.integers(1, 3))
@settings(deadline=None, max_examples=60)
def test_a_prompt_that_is_alone_shares_nothing_whoever_else_runs(
    everything: list[Encoded], limit: int, replicas: int
) -> None:
    batcher = batcher_with(*everything)
    lock, running, taken, shared = threading.Lock(), list[Encoded](), list[Encoded](), list[Encoded]()

    def replica() -> None:
        while (microbatch := batcher.take(limit)) is not None:
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
            batcher.done()
            if last:
                batcher.close()

    threads = [threading.Thread(target=replica) for _ in range(replicas)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)

    assert not any(thread.is_alive() for thread in threads)
    assert shared == []
    assert len(taken) == len(set(taken)) == len(everything)


def test_one_that_is_alone_waits_for_the_others_and_they_for_it() -> None:
    batcher = batcher_with(encoded("first"))
    assert batcher.take(1)
    story: list[str] = []
    for prompt in (encoded("alone", alone=True), encoded("later")):
        add(batcher, prompt)
    takers = [
        threading.Thread(target=lambda: story.extend(each.prompt.id for each in batcher.take(2) or ()))
        for _ in range(2)
    ]
    for taker in takers:
        taker.start()
    story.append("first is done")
    batcher.done()
    wait_until(lambda: len(story) == 2)
    story.append("alone is done")
    batcher.done()
    for taker in takers:
        taker.join(SOON)

    assert story == ["first is done", "alone", "alone is done", "later"]


def test_one_that_ends_before_it_may_run_alone_holds_nobody_up() -> None:
    batcher = batcher_with(encoded("first"))
    batcher.take(1)
    alone = encoded("alone", alone=True)
    add(batcher, alone)
    add(batcher, encoded("later"))
    alone.pending.fail(Cancelled("cancelled"))

    assert [each.prompt.id for each in batcher.take(1) or ()] == ["later"]


def test_one_that_is_alone_does_not_wait_for_company() -> None:
    batcher = batcher_with(encoded(alone=True), wait_s=NEVER_S)

    assert batcher.take(4)


def test_one_with_a_seed_does_not_wait_for_company_that_it_may_not_have() -> None:
    batcher = batcher_with(
        encoded("seeded", temperature=0.5, seed=7), encoded("other", temperature=0.5), wait_s=NEVER_S
    )

    assert [each.prompt.id for each in batcher.take(4) or ()] == ["seeded"]


def test_what_draws_nothing_runs_together_whatever_it_asks_of_the_draw() -> None:
    greedy = [encoded("a"), encoded("b", top_p=0.5), encoded("c", seed=7)]

    assert batcher_with(*greedy).take(4) == greedy


def test_bulk_that_is_alone_gets_its_turn_among_interactive_prompts_that_keep_coming() -> None:
    batcher = batcher_with(encoded("bulk", "bulk", alone=True), encoded("0"))
    order: list[str] = []

    while "bulk" not in order:
        microbatch = batcher.take(1)
        assert microbatch is not None
        order.append(microbatch[0].prompt.id)
        add(batcher, encoded(str(len(order))))
        batcher.done()

    assert len(order) == BULK_TURN
