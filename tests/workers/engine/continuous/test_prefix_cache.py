"""Answers are those of `generate` though prompts take keys and values that others have computed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.engine.conftest import image, make_prompt
from tests.workers.engine.continuous.conftest import Bench, Sizes, Timetable, with_params
from vqa.errors import Cancelled
from workers.engine.base import Completion, Prompt, Turn
from workers.engine.continuous.encode import RequestEncoder
from workers.engine.continuous.loop import Loop
from workers.engine.continuous.scheduler import Batch
from workers.engine.runtime.heartbeat import Heartbeat
from workers.engine.runtime.pending import Pending

MOST = 8
SYSTEM = Turn("system", ("answer in a few words, and never in rhyme",))

#: questions about the same images, after the same instructions, and one that is asked twice
CHATS: tuple[tuple[Turn, ...], ...] = (
    (SYSTEM, Turn("user", (image(1), "what is it?"))),
    (SYSTEM, Turn("user", (image(1), "what colour is it, and why?"))),
    (SYSTEM, Turn("user", (image(2), "what is it?"))),
    (SYSTEM, Turn("user", (image(1), image(2), "do they differ?"))),
    (SYSTEM, Turn("user", (image(1), image(3), "do they differ?"))),
    (SYSTEM, Turn("user", ("what is it?",))),
    (SYSTEM, Turn("user", (image(1), "what is it?")), Turn("assistant", ("a",)), Turn("user", ("are you sure?",))),
    (Turn("user", (image(1), "what is it?")),),
    (Turn("user", (image(4), "what is it?")),),
)
PROMPTS = [make_prompt(f"p{number}", turns, MOST) for number, turns in enumerate(CHATS)]

#: which prompt, the most tokens of its answer, the turn of the loop at which it comes, and the one at which it is
#: cancelled
arrivals = st.lists(
    st.tuples(
        st.integers(0, len(PROMPTS) - 1),
        st.integers(1, MOST),
        st.integers(0, 20),
        st.one_of(st.none(), st.none(), st.integers(0, 30)),
    ),
    min_size=2,
    max_size=12,
)
sizes = st.builds(
    Sizes,
    slots=st.integers(1, 6),
    # the longest prompt and its answer take 97 tokens
    blocks=st.integers(25, 120),
    block_size=st.sampled_from([4, 7, 16]),
    prefill_tokens=st.one_of(st.integers(5, 40), st.integers(5, 300)),
    reuse_bytes=st.sampled_from([0, 10**9]),
)


class Failing:
    """A runner's `forward` that computes nothing in some passes, those that have several prompts."""

    def __init__(self, forward: Callable[[Batch], Any], passes: Collection[int]) -> None:
        self._forward, self._passes, self._done = forward, passes, 0

    def __call__(self, batch: Batch) -> Any:
        self._done += 1
        if self._done in self._passes and len(batch.chunks) > 1:
            raise ValueError("in a pass")
        return self._forward(batch)


class CachingBench:
    """A loop over one model with a prefix cache."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._encoders: dict[int, RequestEncoder] = {}

    def encoder(self, block_size: int) -> RequestEncoder:
        if block_size not in self._encoders:
            self._encoders[block_size] = RequestEncoder(self.bench.pipe.processor, 4096, block_size=block_size)
        return self._encoders[block_size]

    def answer(
        self, sizes: Sizes, prompts: list[tuple[Prompt, int, int | None]], failing: Collection[int] = ()
    ) -> tuple[list[Completion | Cancelled], Loop]:
        """Answer prompts that come, and may be cancelled, at turns of the loop, some of whose passes fail."""
        pending = [Pending(prompt) for prompt, _, _ in prompts]
        table = defaultdict(list)
        for each, (prompt, turn, _) in zip(pending, prompts, strict=True):
            table[turn].append((each, self.encoder(sizes.block_size).encode(prompt)))

        def cancel(now: int) -> None:
            for each, (_, _, end) in zip(pending, prompts, strict=True):
                if end is not None and end <= now:
                    each.fail(Cancelled("by a test"))

        loop = self.bench.loop(sizes, self.bench.ends)
        loop._runner.forward = Failing(loop._runner.forward, failing)
        loop.serve(Timetable(table, cancel), Heartbeat(60))
        return [each.future.exception(0) or each.future.result(0) for each in pending], loop


@pytest.fixture(params=["dense_bench", "expert_bench"], scope="session")
def bench(request: pytest.FixtureRequest) -> CachingBench:
    return CachingBench(request.getfixturevalue(request.param))


def expected(bench: CachingBench, prompt: Prompt) -> str:
    tokens = bench.bench.expected(with_params(prompt, max_new_tokens=MOST))[: prompt.params.max_new_tokens]
    return " ".join(str(token) for token in tokens if token not in bench.bench.ends)


@settings(deadline=None, max_examples=40)
@given(arrivals=arrivals, sizes=sizes, failing=st.sets(st.integers(1, 15), max_size=3))
def test_answers_with_shared_prefixes_are_those_of_generate(
    bench: CachingBench, arrivals: list[tuple[int, int, int, int | None]], sizes: Sizes, failing: set[int]
) -> None:
    room = sizes.blocks * sizes.block_size
    asked = [
        (with_params(PROMPTS[which], id=f"{number}", max_new_tokens=most), turn, end)
        for number, (which, most, turn, end) in enumerate(arrivals)
    ]
    asked = [each for each in asked if bench.encoder(16).encode(each[0]).num_tokens + MOST <= room]

    made, loop = bench.answer(sizes, asked, failing)

    for (prompt, _, end), completion in zip(asked, made, strict=True):
        if isinstance(completion, Completion):
            assert completion.text == expected(bench, prompt)
        else:
            assert end is not None
            assert isinstance(completion, Cancelled)
    # what was cancelled last is removed at the next turn
    loop._remove_finished()
    blocks = loop._scheduler._block_manager
    assert blocks.num_free == blocks.num_blocks


@pytest.mark.parametrize("together", [True, False], ids=["together", "one-by-one"])
def test_questions_about_one_image_compute_it_once(bench: CachingBench, together: bool) -> None:
    chats = [(SYSTEM, Turn("user", (image(1), f"question {number}?"))) for number in range(8)]
    prompts = [make_prompt(f"q{number}", turns, 4) for number, turns in enumerate(chats)]

    made, loop = bench.answer(
        Sizes(slots=8, blocks=100, block_size=4, prefill_tokens=400),
        [(prompt, 0 if together else 20 * number, None) for number, prompt in enumerate(prompts)],
    )

    assert [each.text for each in made if isinstance(each, Completion)] == [expected(bench, each) for each in prompts]
    total = sum(bench.encoder(4).encode(prompt).num_tokens for prompt in prompts)
    stats = loop.counter.stats
    assert stats.prompt_tokens + stats.cached_tokens == total
    assert stats.cached_tokens > total / 2
    assert [each.cached_tokens > 0 for each in made if isinstance(each, Completion)] == [False] + [True] * 7
    assert sum(each.cached_tokens for each in made if isinstance(each, Completion)) == stats.cached_tokens


def test_prompts_of_other_salts_share_nothing(bench: CachingBench) -> None:
    prompts = [Prompt(f"{n}", PROMPTS[0].turns, PROMPTS[0].params, cache_salt=f"tenant {n}") for n in range(3)]

    made, loop = bench.answer(Sizes(), [(prompt, 0, None) for prompt in prompts])

    assert [each.text for each in made if isinstance(each, Completion)] == [expected(bench, PROMPTS[0])] * 3
    assert loop.counter.stats.cached_tokens == 0
