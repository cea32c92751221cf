"""The answers of `generate`, token for token, where prompts begin alike and share what is computed of them.

CI compares over a thousand prompts here and in `test_prefix_cache.py`; `make equality` compares 20,000 here.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workers.engine.conftest import image, make_prompt
from tests.workers.engine.continuous.conftest import Bench, Sizes, Timetable, with_params
from vqa.errors import Cancelled
from workers.engine.base import Prompt, Turn
from workers.engine.continuous.encode import RequestEncoder
from workers.engine.continuous.loop import Loop
from workers.engine.runtime.heartbeat import Heartbeat
from workers.engine.runtime.pending import Pending
from workers.engine.stats import Stats

MOST = 10
#: prompts of one run of the engine
COMPANY = 25
PROMPTS = int(os.environ.get("EQUALITY_PROMPTS", 600))

SYSTEMS: tuple[tuple[Turn, ...], ...] = ((), (Turn("system", ("You count dogs, and say where they are. " * 2,)),))
IMAGES = (image(0), image(1))
QUESTIONS = ("what is it?", "what is here?", "which one of them is the largest, and why?")


def chats() -> list[tuple[Turn, ...]]:
    """Conversations that begin with none or a system prompt, and with one or both of two images."""
    made: list[tuple[Turn, ...]] = []
    for system, shown in product(SYSTEMS, IMAGES):
        for question in QUESTIONS:
            made.append((*system, Turn("user", (shown, question))))
        # later turns of one conversation, which hold the earlier ones
        first = (*system, Turn("user", (shown, "what is it?")), Turn("assistant", ("A dog.",)))
        for question in QUESTIONS[:2]:
            made.append((*first, Turn("user", (question,))))
        made.append((*first, Turn("user", ("and", IMAGES[0], "this?")), Turn("assistant", ("It is",))))
        made.append((*system, Turn("user", (shown, IMAGES[1], "do they differ?"))))
        made.append((*system, Turn("user", ("do they differ?", shown, IMAGES[1]))))
    return made


CHATS = chats()


@dataclass(frozen=True, slots=True)
class Arrival:
    """A prompt that comes at a turn of the loop."""

    chat: int
    most: int
    turn: int
    salt: str
    #: the turn at which it is cancelled; None for never
    cancelled: int | None

    def prompt(self, id: int) -> Prompt:
        return make_prompt(str(id), CHATS[self.chat], self.most, cache_salt=self.salt)


arrivals = st.lists(
    st.builds(
        Arrival,
        chat=st.integers(0, len(CHATS) - 1),
        most=st.integers(1, MOST),
        turn=st.integers(0, 60),
        salt=st.sampled_from(["", "", "", "another tenant"]),
        cancelled=st.one_of(st.none(), st.none(), st.none(), st.integers(0, 80)),
    ),
    min_size=COMPANY,
    max_size=COMPANY + 5,
)
sizes = st.builds(
    Sizes,
    slots=st.integers(1, 8),
    # the longest prompt and its answer take under 189 tokens; so the cache holds one prompt, or nearly all of them
    blocks=st.integers(27, 250),
    block_size=st.sampled_from([7, 16]),
    prefill_tokens=st.integers(9, 300),
    reuse_bytes=st.sampled_from([0, 10**9]),
)
#: passes that fail before they compute anything, unless they have a single prompt, whose own fault it would be
faults = st.frozensets(st.integers(0, 40), max_size=4)


@pytest.fixture(params=["dense_bench", "expert_bench"], scope="session")
def bench(request: pytest.FixtureRequest) -> Bench:
    found: Bench = request.getfixturevalue(request.param)
    return found


def failing(loop: Loop, passes: frozenset[int]) -> Loop:
    """Let these passes of the loop fail."""
    forward, count = loop._runner.forward, iter(range(10**9))

    def maybe(batch: Any) -> Any:
        if next(count) in passes and len(batch.chunks) > 1:
            raise RuntimeError("a pass fails")
        return forward(batch)

    loop._runner.forward = maybe
    return loop


def serve(
    bench: Bench, sizes: Sizes, arrivals: list[Arrival], passes: frozenset[int] = frozenset(), cached: bool = True
) -> tuple[list[Pending], Stats]:
    """Answer the prompts."""
    block_size = sizes.block_size if cached else None
    encoder = RequestEncoder(bench.pipe.processor, slot_tokens=4096, block_size=block_size, model="model")
    pending = [Pending(arrival.prompt(number)) for number, arrival in enumerate(arrivals)]
    table: dict[int, list[Any]] = defaultdict(list)
    cancels: dict[int, list[Pending]] = defaultdict(list)
    for each, arrival in zip(pending, arrivals, strict=True):
        table[arrival.turn].append((each, encoder.encode(each.prompt)))
        if arrival.cancelled is not None:
            cancels[arrival.cancelled].append(each)

    def cancel(turn: int) -> None:
        for at in [at for at in cancels if at <= turn]:
            for each in cancels.pop(at):
                each.fail(Cancelled("by its user"))

    loop = failing(bench.loop(sizes, bench.ends), passes)
    loop.serve(Timetable(table, cancel), Heartbeat(60))
    return pending, loop.counter.stats


@settings(deadline=None, max_examples=PROMPTS // (2 * COMPANY), suppress_health_check=[HealthCheck.large_base_example])
@given(arrivals=arrivals, sizes=sizes, passes=faults, cached=st.sampled_from([True, True, False]))
def test_answers_are_those_of_generate_whoever_shares_prefixes(
    bench: Bench, arrivals: list[Arrival], sizes: Sizes, passes: frozenset[int], cached: bool
) -> None:
    pending, stats = serve(bench, sizes, arrivals, passes, cached)

    for each, arrival in zip(pending, arrivals, strict=True):
        if isinstance(each.future.exception(0), Cancelled):
            assert arrival.cancelled is not None
            continue
        made = each.future.result(0)
        tokens = bench.expected(with_params(each.prompt, max_new_tokens=MOST))[: arrival.most]
        shown = [str(token) for token in tokens if token not in bench.ends]
        assert (made.text.split(), made.completion_tokens) == (shown, len(tokens))
        assert made.finish_reason == ("length" if len(shown) == len(tokens) else "stop")
        assert 0 <= made.cached_tokens < made.prompt_tokens
        assert made.cached_tokens % sizes.block_size == 0
    assert cached or stats.cached_tokens == 0


def test_most_of_what_is_asked_again_is_found(bench: Bench) -> None:
    again = [Arrival(chat, 2, turn, "", None) for turn in (0, 1000) for chat in range(len(CHATS))]
    pending, stats = serve(bench, Sizes(slots=6, blocks=400), again)

    answers = [each.future.result(0) for each in pending]
    first, second = answers[: len(CHATS)], answers[len(CHATS) :]
    assert [each.text for each in first] == [each.text for each in second]
    # all full blocks but the one with the last token, which is always computed
    assert [each.cached_tokens for each in second] == [(each.prompt_tokens - 1) // 16 * 16 for each in second]
    assert stats.cached_tokens == sum(each.cached_tokens for each in answers)
    assert sum(each.cached_tokens for each in first) > 0.4 * sum(each.prompt_tokens for each in first)
