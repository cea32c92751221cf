from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vqa.errors import Cancelled
from vqa.jobs.lane import Lane
from workers.engine.base import Completion, Prompt, SamplingParams
from workers.engine.echo.slots import Slots
from workers.engine.fair_share import BULK_TURN, Reserve
from workers.engine.runtime.pending import Pending

DONE = Completion("yes", "stop", 1, 1)
SLOTS = 3


def pending(id: str = "a", lane: Lane = "interactive", alone: bool = False) -> Pending:
    return Pending(Prompt(id, (), SamplingParams(1), lane=lane, alone=alone))


@dataclass
class Entered:
    """Those that have begun, in order."""

    order: list[Pending] = field(default_factory=list)

    def enter(self, slots: Slots, *prompts: Pending) -> None:
        for prompt in prompts:
            slots.enter(prompt, lambda prompt=prompt: self.order.append(prompt))

    def inside(self) -> list[Pending]:
        return [prompt for prompt in self.order if not prompt.settled]


class Doorkeeper(RuleBasedStateMachine):
    """Prompts come, pass through, end and are cancelled in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots(SLOTS, None)
        self.entered = Entered()
        self.waiting: list[Pending] = []

    @rule(lane=st.sampled_from(["interactive", "bulk"]), alone=st.booleans())
    def comes(self, lane: Lane, alone: bool) -> None:
        prompt = pending(f"{len(self.entered.order)}", lane, alone)
        self.waiting.append(prompt)
        self.entered.enter(self.slots, prompt)

    @rule()
    def passes_through(self) -> None:
        prompt = pending("through")
        admitted = self.slots.pass_through(prompt)
        assert admitted == (not any(each.prompt.alone for each in self.entered.inside()))
        prompt.answer(DONE)

    @rule(which=st.integers(0, SLOTS))
    def ends(self, which: int) -> None:
        inside = self.entered.inside()
        if which < len(inside):
            inside[which].answer(DONE)

    @rule(which=st.integers(0, 5))
    def is_cancelled(self, which: int) -> None:
        waiting = [each for each in self.waiting if each not in self.entered.order]
        if which < len(waiting):
            waiting[which].fail(Cancelled("cancelled"))

    @invariant()
    def nobody_is_beside_one_that_is_alone(self) -> None:
        inside = self.entered.inside()
        assert len(inside) <= (1 if any(each.prompt.alone for each in inside) else SLOTS)
        assert sorted(self.slots.in_slots()) == sorted(each.prompt.id for each in inside)

    @invariant()
    def no_slot_is_free_for_nothing(self) -> None:
        waiting = [each for each in self.waiting if not each.settled and each not in self.entered.order]
        inside = self.entered.inside()
        if waiting and not inside:
            pytest.fail("everybody waits")
        if waiting and not any(each.prompt.alone for each in (*waiting, *inside)):
            assert len(inside) == SLOTS

    def teardown(self) -> None:
        while inside := self.entered.inside():
            inside[0].answer(DONE)
        assert all(each.settled for each in self.waiting)


TestDoorkeeper = Doorkeeper.TestCase


@given(st.permutations(range(6)))
def test_one_that_is_alone_goes_before_others_that_come_later(order: list[int]) -> None:
    slots, entered = Slots(SLOTS, None), Entered()
    first, alone, *later = (
        pending("first"),
        pending("alone", "bulk", alone=True),
        *(pending(f"later{n}") for n in order),
    )
    entered.enter(slots, first, alone, *later)

    assert entered.order == [first]
    first.answer(DONE)
    assert entered.order == [first, alone]
    alone.answer(DONE)
    assert entered.order == [first, alone, *later[:SLOTS]]


def test_interactive_prompts_enter_first() -> None:
    slots, entered = Slots(1, None), Entered()
    first, bulk, interactive = pending("first"), pending("bulk", "bulk"), pending("interactive")
    entered.enter(slots, first, bulk, interactive)
    first.answer(DONE)

    assert entered.order == [first, interactive]


def test_bulk_leaves_the_reserve_free_and_one_slot_in_twenty_is_its_own() -> None:
    slots, entered = Slots(SLOTS, None, Reserve(1)), Entered()
    bulk = [pending(f"bulk{n}", "bulk") for n in range(4)]
    entered.enter(slots, *bulk)
    assert entered.order == bulk[:2]
    bulk[0].answer(DONE)
    assert entered.order == bulk[:3]
    flood = [pending(f"{n}") for n in range(60)]
    entered.enter(slots, *flood)
    assert entered.order == [*bulk[:3], flood[0]]
    bulk[1].answer(DONE)
    while inside := [each for each in entered.inside() if each.prompt.lane == "interactive"]:
        inside[0].answer(DONE)
    # what is left of bulk when there is no more interactive enters by itself
    assert entered.order.index(bulk[3]) == 3 + BULK_TURN - 1


def test_bulk_that_has_its_share_does_not_block_interactive_in_its_turn() -> None:
    slots, entered = Slots(SLOTS, None, Reserve(1)), Entered()
    bulk = [pending(f"bulk{n}", "bulk") for n in range(3)]
    entered.enter(slots, *bulk)
    flood = [pending(f"{n}") for n in range(60)]
    entered.enter(slots, *flood)
    for each in flood:
        each.answer(DONE)
    assert entered.order == [*bulk[:2], *flood]
