"""Prompts of several answers, whose children are settled by hand."""

from __future__ import annotations

import gc
import math
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.engine.conftest import SOON, image
from vqa.errors import Cancelled, DeadlineExceeded, EngineError, InvalidJob
from workers.engine.base import Completion, Prompt, SamplingParams, TokenLogprob, Turn
from workers.engine.forks import MOST_AT_ONCE, Fork, probabilities
from workers.engine.runtime.pending import Pending, PendingPrompts
from workers.engine.runtime.timers import Timers


@dataclass
class Hands:
    """Accepts prompts as an engine does, and settles none."""

    pending: PendingPrompts
    children: list[Pending] = field(default_factory=list)

    def fork(self, *, parts: tuple[Any, ...] = ("what?",), deadline: float = math.inf, **how: Any) -> Pending:
        """Submit a prompt; `how` has fields of Prompt and of SamplingParams."""
        own = {name: how.pop(name) for name in ("alone", "on_text") if name in how}
        params = SamplingParams(12, temperature=0.7, **how)
        parent = self.pending.add(Prompt("job", (Turn("user", parts),), params, deadline=deadline, **own))
        Fork(parent, self._submit).start()
        return parent

    def _submit(self, prompt: Prompt) -> Pending:
        self.children.append(self.pending.add(prompt))
        return self.children[-1]

    def answer(self, number: int, text: str = "", score: float = 0.0, **about: Any) -> None:
        self.children[number].answer(Completion(text, "stop", 10, 3, total_logprob=score, **about))

    @property
    def running(self) -> int:
        return sum(not child.settled for child in self.children)


@pytest.fixture
def hands() -> Iterator[Hands]:
    timers = Timers("test")
    timers.start()
    yield Hands(PendingPrompts(timers))
    timers.stop()


def test_a_prompt_of_three_answers_gets_them_in_the_order_of_their_seeds(hands: Hands) -> None:
    parent = hands.fork(n=3, seed=2**63 - 1)
    assert [child.prompt.params.seed for child in hands.children] == [2**63 - 1, 0, 1]
    assert {(child.prompt.id, child.prompt.params.n) for child in hands.children} == {("job", 1)}
    hands.answer(2, "c", cached_tokens=8, reasoning_tokens=2)
    hands.answer(0, "a", reasoning_tokens=1)
    assert not parent.settled
    hands.answer(1, "b", cached_tokens=8)

    answer = parent.future.result(0)
    assert [each.text for each in (answer, *answer.alternatives)] == ["a", "b", "c"]
    assert (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens) == (10, 9, 0)
    assert answer.reasoning_tokens == 3
    assert len(hands.pending) == 0


def test_answers_without_a_seed_have_none(hands: Hands) -> None:
    hands.fork(n=2)

    assert [child.prompt.params.seed for child in hands.children] == [None, None]


def test_only_the_first_of_several_answers_is_shown_as_it_is_generated(hands: Hands) -> None:
    shown: list[str] = []
    hands.fork(n=3, on_text=shown.append)

    assert [child.prompt.on_text is not None for child in hands.children] == [True, False, False]


@pytest.mark.parametrize("failed", range(3))
def test_an_answer_that_fails_fails_its_prompt_and_ends_the_others(hands: Hands, failed: int) -> None:
    parent = hands.fork(n=3)
    hands.children[failed].fail(InvalidJob("not so"))

    with pytest.raises(InvalidJob, match="not so"):
        parent.future.result(0)
    assert hands.running == 0
    assert len(hands.pending) == 0


def test_a_cancelled_prompt_starts_no_more_answers(hands: Hands) -> None:
    parent = hands.fork(choices=tuple(f"c{n}" for n in range(100)))
    hands.answer(0)
    hands.pending.cancel("job")

    with pytest.raises(Cancelled):
        parent.future.result(0)
    assert (hands.running, len(hands.children)) == (0, MOST_AT_ONCE + 1)


def test_a_deadline_ends_all_answers(hands: Hands) -> None:
    parent = hands.fork(n=4, deadline=time.monotonic() + 0.05)

    with pytest.raises(DeadlineExceeded):
        parent.future.result(SOON)
    for child in hands.children:
        assert child.future.exception(SOON) is not None
    assert len(hands.pending) == 0


def test_a_prompt_that_comes_too_late_has_no_children(hands: Hands) -> None:
    parent = hands.fork(n=4, deadline=time.monotonic() - 1)

    with pytest.raises(DeadlineExceeded):
        parent.future.result(0)
    assert not hands.children


@pytest.mark.parametrize(("alone", "most"), [(False, MOST_AT_ONCE), (True, 1)], ids=["together", "alone"])
def test_few_of_many_choices_are_scored_at_the_same_time(hands: Hands, alone: bool, most: int) -> None:
    choices = tuple(f"choice {n}" for n in range(40))
    parent = hands.fork(choices=choices, alone=alone)
    for number in range(40):
        assert hands.running == min(most, 40 - number)
        hands.answer(number)

    answer = parent.future.result(0)
    assert answer.choices == dict.fromkeys(choices, pytest.approx(1 / 40))
    assert (answer.completion_tokens, answer.finish_reason) == (120, "stop")


def test_the_likeliest_choice_is_the_answer(hands: Hands) -> None:
    shown: list[str] = []
    parent = hands.fork(choices=("cat", "dog", "cow"), on_text=shown.append)
    forced = [child.prompt.params for child in hands.children]
    assert [(each.forced, each.choices, each.grammar, each.logprobs) for each in forced] == [
        (choice, (), None, True) for choice in ("cat", "dog", "cow")
    ]
    for number, share in enumerate((0.02, 0.06, 0.12)):
        hands.answer(number, score=math.log(share), logprobs=(TokenLogprob(1, b"x", math.log(share)),))

    answer = parent.future.result(0)
    assert (answer.text, answer.logprobs) == ("cow", ())
    assert answer.choices == {"cat": pytest.approx(0.1), "dog": pytest.approx(0.3), "cow": pytest.approx(0.6)}
    assert shown == ["cow"]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)], ids=["rising", "falling", "mixed"])
def test_the_likeliest_choice_has_its_log_probabilities(hands: Hands, order: tuple[int, ...]) -> None:
    parent = hands.fork(choices=("a", "b", "c", "d"), logprobs=True)
    for number in order:
        # of two that are equally likely, the one whose text is greater
        token = TokenLogprob(number, b"x", -1.0)
        hands.answer(number, score=(-3, -2, -1, -1)[number], logprobs=(token,), reasoning_tokens=2)

    answer = parent.future.result(0)
    assert (answer.text, [each.token for each in answer.logprobs], answer.reasoning_tokens) == ("d", [3], 8)


class Token(TokenLogprob):
    """One of which a test sees whether it is kept: with slots alone it has no weak references."""


def test_log_probabilities_of_other_choices_are_let_go_before_all_are_scored(hands: Hands) -> None:
    parent = hands.fork(choices=("a", "b", "c", "d"), logprobs=True)
    made = [Token(number, b"x", -1.0) for number in range(3)]
    kept = [weakref.ref(token) for token in made]
    for number, score in enumerate((-2.0, -1.0, -3.0)):
        hands.answer(number, score=score, logprobs=(made[number],))
    made.clear()
    del hands.children[:3]

    assert not parent.settled
    assert [each() is not None for each in kept] == [False, True, False]


def test_choices_without_scores_are_an_error(hands: Hands) -> None:
    parent = hands.fork(choices=("cat", "dog"))
    hands.answer(0)
    hands.children[1].answer(Completion("", "stop", 10, 3))

    with pytest.raises(EngineError, match="no probability"):
        parent.future.result(0)


def test_a_callback_that_fails_fails_its_prompt(hands: Hands) -> None:
    def fail(text: str) -> None:
        raise ValueError

    parent = hands.fork(choices=("cat",), on_text=fail)
    hands.answer(0)

    with pytest.raises(EngineError, match="on_text"):
        parent.future.result(0)


@pytest.mark.parametrize("end", ["answered", "cancelled"])
def test_an_ended_prompt_lets_its_images_go_without_the_garbage_collector(hands: Hands, end: str) -> None:
    gc.disable()
    try:
        parent = hands.fork(n=20, parts=(image(),))
        future, shown = parent.future, weakref.ref(parent.prompt.turns[0].parts[0])
        if end == "cancelled":
            hands.pending.cancel("job")
        else:
            for number in range(20):
                hands.answer(number)
        hands.children.clear()
        del parent

        assert future.done()
        assert shown() is None
    finally:
        gc.enable()


SCORES = st.dictionaries(st.text(max_size=3), st.floats(-1e4, 0), min_size=1, max_size=50)


@given(SCORES, st.floats(-100, 100), st.randoms(use_true_random=False))
def test_probabilities_sum_to_one_and_depend_on_differences(scores: dict[str, float], by: float, draw: Any) -> None:
    found = probabilities(scores)
    assert math.fsum(found.values()) == pytest.approx(1, abs=1e-12)
    assert all(0 <= each <= 1 for each in found.values())
    assert scores[max(found, key=found.__getitem__)] == pytest.approx(max(scores.values()), abs=1e-9)

    names = list(scores)
    draw.shuffle(names)
    moved = probabilities({name: scores[name] + by for name in names})
    assert moved == {name: pytest.approx(found[name], rel=1e-6, abs=1e-12) for name in names}


@pytest.mark.parametrize("scores", [(-math.inf, -math.inf), (math.nan, 0.0), (math.inf, 0.0)], ids=str)
def test_scores_that_are_no_numbers_are_an_error(scores: tuple[float, float]) -> None:
    with pytest.raises(EngineError):
        probabilities(dict(zip("ab", scores, strict=True)))
