"""Prompts with a grammar, penalties, seeds and log probabilities get the same answer alone and in any company.

Others share their prefixes, take their slots, are cancelled, or show an image that the tower fails on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.workers.engine.conftest import image, make_prompt
from tests.workers.engine.continuous.conftest import Bench, Sizes, Timetable
from vqa.errors import Cancelled, EngineError
from vqa.jobs.job import Job
from workers.engine.base import Prompt, Turn
from workers.engine.continuous.encode import RequestEncoder
from workers.engine.continuous.requests import ImageSpan
from workers.engine.runtime.heartbeat import Heartbeat
from workers.engine.runtime.pending import Pending
from workers.engine.text.grammar import Guides
from workers.engine.text.token_bytes import TokenBytes

IMAGES = tuple(map(image, range(3)))
#: the tower fails on it
BROKEN = image(9)
SYSTEMS: tuple[tuple[Turn, ...], ...] = ((), (Turn("system", ("You count dogs, and say where they are. " * 2,)),))
QUESTIONS = ("what is it?", "what is here?", "which one is the largest, and why?")
GRAMMAR = Job(
    messages=[{"role": "user", "content": "x"}],
    response_format={"type": "choice", "choices": ["no", "none", "a longer one"]},
).grammar

ALONE = Sizes(blocks=250, prefill_tokens=4096)


def params(random: Random) -> dict[str, Any]:
    made: dict[str, Any] = {"grammar": random.choice([None, None, GRAMMAR])}
    if random.random() < 0.6:
        made |= {"temperature": random.choice([0.7, 1.5]), "seed": random.randrange(2**40)}
        made |= {"top_k": random.choice([0, 5, 200]), "top_p": random.choice([0.5, 1.0]), "min_p": 0.01}
    if random.random() < 0.5:
        made |= {"presence_penalty": 1.5, "frequency_penalty": random.choice([0.0, 0.7]), "repetition_penalty": 1.3}
    return {**made, "logprobs": random.random() < 0.5, "top_logprobs": 2}


def prompt(random: Random, id: str) -> Prompt:
    shown = [*random.choices(IMAGES, k=random.choice([1, 1, 2]))]
    if random.random() < 0.1:
        shown.insert(random.randrange(2), BROKEN)
    parts = [*shown, random.choice(QUESTIONS)]
    chat = (*random.choice(SYSTEMS), Turn("user", tuple(parts if random.random() < 0.7 else parts[::-1])))
    made = make_prompt(id, chat, random.choice([1, 3, 12, 30]), **params(random))
    return replace(made, lane=random.choice(["interactive", "bulk"]), alone=random.random() < 0.06)


class Company:
    """Serves prompts over a model whose tower fails on one image, after it has computed others."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._guides = Guides(bench.pipe.tokenizer, bench.ends)

    def serve(self, sizes: Sizes, arrivals: Sequence[tuple[Prompt, int]], cancelled: dict[str, int]) -> list[Pending]:
        """Let each prompt come at its turn, and some, by id, be cancelled at another."""
        encoder = RequestEncoder(self._bench.pipe.processor, 4096, self._guides, sizes.block_size, "model")
        made: list[Pending] = []
        table: dict[int, list[Any]] = defaultdict(list)
        for each, turn in arrivals:
            made.append(Pending(each))
            table[turn].append((made[-1], encoder.encode(each)))

        def cancel(now: int) -> None:
            for pending in made:
                if cancelled.get(pending.prompt.id, now + 1) <= now:
                    pending.fail(Cancelled("by its user"))

        loop = self._bench.loop(sizes, self._bench.ends)
        loop._token_bytes = TokenBytes(self._bench.pipe.tokenizer)
        loop._runner._features._encode_images = self._encode
        loop.serve(Timetable(table, cancel), Heartbeat(60))
        return made

    def _encode(self, images: Sequence[ImageSpan]) -> Iterator[tuple[ImageSpan, Tensor]]:
        yield from self._bench.vision.encode_images([each for each in images if each.digest != BROKEN.digest])
        if any(each.digest == BROKEN.digest for each in images):
            raise RuntimeError("the tower fails")


@pytest.fixture(params=["dense_bench", "expert_bench"], scope="module")
def company(request: pytest.FixtureRequest) -> Company:
    return Company(request.getfixturevalue(request.param))


@settings(deadline=None, max_examples=8)
@given(
    random=st.randoms(use_true_random=False),
    sizes=st.builds(
        Sizes,
        slots=st.sampled_from([1, 2, 5, 16]),
        blocks=st.sampled_from([40, 60, 250]),
        block_size=st.sampled_from([7, 16]),
        prefill_tokens=st.sampled_from([5, 17, 64, 300]),
        # nothing, a few ends of images, or everything
        reuse_bytes=st.sampled_from([0, 20_000, 10**9]),
    ),
)
def test_an_answer_is_the_same_alone_and_in_any_company(company: Company, random: Random, sizes: Sizes) -> None:
    prompts = [prompt(random, str(number)) for number in range(14)]
    cancelled = {each.id: random.randrange(60) for each in prompts if random.random() < 0.2}
    made = company.serve(sizes, [(each, random.randrange(30)) for each in prompts], cancelled)

    for each, pending in zip(prompts, made, strict=True):
        error = pending.future.exception(0)
        if isinstance(error, Cancelled):
            assert each.id in cancelled
        elif BROKEN in each.images:
            assert isinstance(error, EngineError)
        else:
            own = company.serve(ALONE, [(each, 0)], {})[0].future
            assert type(error) is type(own.exception(0))
            if error is None:
                together, alone = pending.future.result(0), own.result(0)
                bare = {"cached_tokens": 0, "logprobs": None, "total_logprob": None}
                assert replace(together, **bare) == replace(alone, **bare)
                assert together.total_logprob == pytest.approx(alone.total_logprob, abs=1e-2)
