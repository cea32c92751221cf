"""What the scheduler decides, in whatever order prompts come and go; no model, no tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vqa.job import LANES, Lane
from workers.engine.continuous.block_manager import Pages
from workers.engine.continuous.scheduler import (
    BULK_TURN,
    HOLD_STEPS,
    PASSED_MOST,
    Part,
    PrefillWork,
    Scheduler,
    StepWork,
)
from workers.engine.continuous.sequence import Stay
from workers.engine.fair_share import Reserve

Work = PrefillWork | StepWork | None


def steps_of(tokens: int) -> int:
    """As many steps as a prefill of so many tokens takes: those who decode get them before the next one."""
    return min(HOLD_STEPS, 2 + tokens // 700)


class Drive:
    """The loop around a scheduler, with nothing computed: what a piece of work ends is told one piece of work later.

    Checks each decision by books of its own.
    """

    def __init__(self, slots: int, pages: int, page_tokens: int, prefill_tokens: int, reserve: int = 0) -> None:
        self.slots, self.prefill_tokens = slots, prefill_tokens
        #: slots that bulk may have
        self.share = slots - reserve
        self.pages = Pages(pages, page_tokens)
        self.scheduler = Scheduler(slots, self.pages, prefill_tokens, Reserve(reserve))
        #: who has arrived and not left, in the order of arrival
        self.present: list[Stay] = []
        #: who got a slot, in order
        self.entered: list[Stay] = []
        #: how many of the last of them went before bulk that waited
        self.passed_bulk = 0
        #: steps since a prefill while somebody in a slot was not prefilled
        self.held = 0
        #: steps since the last prefill, and the tokens of that
        self.since_prefill = self.last_prefilled = 0
        #: by stay: tokens of the prompt that were computed, tokens of the answer that were made
        self.computed: dict[Stay, int] = {}
        self.made: dict[Stay, int] = {}
        self.works: list[Work] = []
        self._ended: list[Stay] = []
        self._at_their_end: list[Stay] = []

    @property
    def waiting(self) -> list[Stay]:
        return [stay for stay in self.present if stay.slot is None]

    @property
    def decoding(self) -> list[Stay]:
        return [
            stay for stay in self.scheduler.seated if self.computed[stay] == stay.tokens and self.made[stay] < stay.most
        ]

    def add(self, tokens: int, most: int, lane: Lane = "interactive", alone: bool = False) -> Stay:
        stay = Stay(tokens, most, lane, alone)
        assert self.scheduler.fits(stay)
        self.scheduler.add(stay)
        self.present.append(stay)
        self.computed[stay] = self.made[stay] = 0
        return stay

    def end(self, stay: Stay) -> None:
        """By a stop, a deadline or a cancellation: seen at the next turn."""
        self._ended.append(stay)

    def turn(self) -> Work:
        for stay in self._ended:
            if stay in self.present:
                self.present.remove(stay)
                self.scheduler.leave(stay)
        self._ended = self._at_their_end
        waited, seated, decoding = self.waiting, self.scheduler.seated, self.decoding
        work = self.scheduler.next()
        self._check_entries(waited, seated)
        match work:
            case PrefillWork():
                assert not (decoding and isinstance(self._last, PrefillWork)), "two prefills hold up who decodes"
                self._at_their_end = self._prefill(work)
            case StepWork():
                self._at_their_end = self._step(work)
            case None:
                self._check_idle()
                self._at_their_end = []
        self.works.append(work)
        return work

    def turns(self, count: int) -> list[Work]:
        return [self.turn() for _ in range(count)]

    def finish(self) -> None:
        """Until everybody has left, which is to take no longer than one after another would."""
        pieces = (-(-stay.tokens // min(self.prefill_tokens, stay.tokens)) for stay in self.present)
        most = sum(pieces) + sum(stay.most + HOLD_STEPS for stay in self.present) + 4 * len(self.present) + 4
        for _ in range(most):
            self.turn()
            self.check()
        assert not self.present
        assert self.pages.free == self.pages.count
        assert not self.scheduler.seated

    def check(self) -> None:
        seated = self.scheduler.seated
        slots = {stay.slot for stay in seated}
        assert len(slots) == len(seated)
        assert slots <= set(range(self.slots))
        pages = [page for stay in seated for page in stay.pages]
        assert len(set(pages)) == len(pages)
        assert set(pages) <= set(range(self.pages.count))
        assert len(pages) + self.pages.free == self.pages.count
        assert len(seated) == 1 or not any(stay.alone for stay in seated)
        for stay in seated:
            assert len(stay.pages) == -(-(stay.tokens + stay.most - 1) // self.pages.tokens)
            assert stay.prefilled == self.computed[stay] <= stay.tokens
            assert stay.asked == self.made[stay] <= stay.most

    @property
    def _last(self) -> Work:
        return self.works[-1] if self.works else None

    def _check_entries(self, waited: list[Stay], before: tuple[Stay, ...]) -> None:
        inside = list(before)
        for stay in [stay for stay in self.scheduler.seated if stay not in before]:
            bulk = sum(other.lane == "bulk" for other in inside)
            if stay.lane == "bulk":
                assert bulk < self.share
                assert len(inside) < self.share or self.passed_bulk >= BULK_TURN - 1
            inside.append(stay)
            assert stay is next(other for other in waited if other.lane == stay.lane), "overtaken on its own lane"
            waited.remove(stay)
            self.entered.append(stay)
            bulk_waits = any(other.lane == "bulk" for other in waited)
            self.passed_bulk = self.passed_bulk + 1 if bulk_waits and stay.lane != "bulk" else 0
            assert self.passed_bulk < BULK_TURN or bulk >= self.share

    def _prefill(self, work: PrefillWork) -> list[Stay]:
        self.held = self.since_prefill = 0
        self.last_prefilled = sum(part.stop - part.start for part in work.parts)
        assert 0 < self.last_prefilled <= self.prefill_tokens
        assert len({part.stay for part in work.parts}) == len(work.parts)
        for part in work.parts:
            assert part.stay in self.scheduler.seated
            assert self.computed[part.stay] == part.start < part.stop <= part.stay.tokens
            if part.stop < part.stay.tokens:
                assert part.stay.tokens - part.start > self.prefill_tokens, "cut without need"
            self.computed[part.stay] = part.stop
        whole = [part.stay for part in work.parts if part.stop == part.stay.tokens]
        self.made.update(dict.fromkeys(whole, 1))
        return [stay for stay in whole if stay.most == 1]

    def _step(self, work: StepWork) -> list[Stay]:
        assert list(work.stays) == self.decoding != []
        if any(self.computed[stay] < stay.tokens for stay in self.scheduler.seated):
            self.held += 1
            assert self.held <= HOLD_STEPS
            if not self.waiting and len(self.scheduler.seated) < self.slots:
                assert self.since_prefill < steps_of(self.last_prefilled), "held, and nobody is waited for"
        self.since_prefill += 1
        for stay in work.stays:
            self.made[stay] += 1
        return [stay for stay in work.stays if self.made[stay] == stay.most]

    def _check_idle(self) -> None:
        assert not self.decoding
        assert all(self.computed[stay] == stay.tokens for stay in self.scheduler.seated)
        assert self.scheduler.seated or not self.waiting


class Traffic(RuleBasedStateMachine):
    """Prompts of all sizes that come and end at any time."""

    @initialize(
        slots=st.integers(1, 6),
        pages=st.integers(1, 40),
        page_tokens=st.integers(1, 8),
        prefill=st.integers(1, 60),
        reserve=st.integers(0, 5),
    )
    def begin(self, slots: int, pages: int, page_tokens: int, prefill: int, reserve: int) -> None:
        self.drive = Drive(slots, pages, page_tokens, prefill, min(reserve, slots - 1))

    @rule(share=st.floats(0, 1), most=st.integers(1, 20), lane=st.sampled_from(LANES), alone=st.integers(0, 9))
    def arrive(self, share: float, most: int, lane: Lane, alone: int) -> None:
        room = self.drive.pages.count * self.drive.pages.tokens
        most = min(most, room)
        self.drive.add(max(1, round(share * (room - most + 1))), most, lane, alone == 0)

    @rule(tokens=st.integers(1, 3), lane=st.sampled_from(LANES))
    def arrive_small(self, tokens: int, lane: Lane) -> None:
        self.drive.add(min(tokens, self.drive.pages.count * self.drive.pages.tokens), 1, lane)

    @precondition(lambda self: self.drive.present)
    @rule(data=st.data())
    def end_one(self, data: st.DataObject) -> None:
        self.drive.end(data.draw(st.sampled_from(self.drive.present)))

    @rule(count=st.integers(1, 12))
    def compute(self, count: int) -> None:
        self.drive.turns(count)

    @invariant()
    def nothing_is_given_twice(self) -> None:
        if hasattr(self, "drive"):
            self.drive.check()

    def teardown(self) -> None:
        if hasattr(self, "drive"):
            self.drive.finish()


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def tokens_of(work: Work) -> int:
    assert isinstance(work, PrefillWork)
    return sum(part.stop - part.start for part in work.parts)


def test_a_prompt_that_arrives_is_prefilled_at_once_beside_those_that_decode() -> None:
    drive = Drive(slots=4, pages=100, page_tokens=4, prefill_tokens=50)
    drive.add(10, 20)
    drive.turns(3)

    late = drive.add(10, 20)

    assert drive.turn() == PrefillWork((Part(late, 0, 10),))
    both = drive.turn()
    assert isinstance(both, StepWork)
    assert late in both.stays


@pytest.mark.parametrize(("tokens", "steps"), [(1, 2), (699, 2), (700, 3), (2800, 6), (20_000, HOLD_STEPS)])
def test_those_that_decode_get_as_much_time_as_a_prefill_took(tokens: int, steps: int) -> None:
    drive = Drive(slots=100, pages=10_000, page_tokens=64, prefill_tokens=100_000)
    drive.add(tokens, 20)
    drive.turn()
    drive.add(1, 1)

    works = drive.turns(steps + 1)

    assert [isinstance(work, StepWork) for work in works] == [*[True] * steps, False]


def kinds(works: list[Work]) -> list[int]:
    """Tokens of each prefill, 0 for a step."""
    return [tokens_of(work) if isinstance(work, PrefillWork) else 0 for work in works]


def test_a_prompt_longer_than_a_prefill_is_cut_and_steps_go_on_between_its_pieces() -> None:
    drive = Drive(slots=2, pages=100, page_tokens=4, prefill_tokens=30)
    drive.add(5, 50)
    drive.turns(3)
    drive.add(100, 5)

    assert kinds(drive.turns(9)) == [30, 0, 30, 0, 30, 0, 0, 10, 0]


def test_prompts_share_a_prefill_in_the_order_of_their_slots_and_are_not_cut_to_fill_it() -> None:
    drive = Drive(slots=4, pages=100, page_tokens=4, prefill_tokens=30)
    first, second, third, small = (drive.add(tokens, 5) for tokens in (12, 12, 12, 4))

    together, *steps, last = drive.turns(4)

    assert together == PrefillWork((Part(first, 0, 12), Part(second, 0, 12), Part(small, 0, 4)))
    assert all(isinstance(step, StepWork) for step in steps)
    assert last == PrefillWork((Part(third, 0, 12),))


def test_a_long_prompt_fills_up_what_others_leave_of_a_prefill() -> None:
    drive = Drive(slots=4, pages=100, page_tokens=4, prefill_tokens=30)
    short, long = drive.add(12, 5), drive.add(40, 5)

    assert drive.turn() == PrefillWork((Part(short, 0, 12), Part(long, 0, 18)))
    drive.finish()


def test_who_leaves_makes_room_at_the_next_turn() -> None:
    drive = Drive(slots=1, pages=10, page_tokens=4, prefill_tokens=30)
    first = drive.add(10, 20)
    drive.turns(3)
    second = drive.add(30, 5)
    drive.turns(2)
    assert second.slot is None

    drive.end(first)

    assert drive.turn() == PrefillWork((Part(second, 0, 30),))
    assert first.slot is None
    assert second.slot == 0


def test_who_waits_for_pages_waits_at_the_head_and_nobody_goes_before() -> None:
    drive = Drive(slots=4, pages=10, page_tokens=4, prefill_tokens=100)
    drive.add(20, 5)
    drive.turn()
    large, small = drive.add(30, 5), drive.add(1, 1)

    drive.turns(3)

    assert (large.slot, small.slot) == (None, None)
    drive.finish()
    assert drive.entered[1:] == [large, small]


def blocked_by_pages(drive: Drive) -> None:
    drive.add(30, 8)


def blocked_by_one_that_is_alone(drive: Drive) -> None:
    drive.add(1, 1, alone=True)


@pytest.mark.parametrize("block", [blocked_by_pages, blocked_by_one_that_is_alone])
def test_prompts_in_slots_are_held_for_others_that_cannot_enter_but_not_for_long(
    block: Callable[[Drive], None],
) -> None:
    drive = Drive(slots=4, pages=12, page_tokens=4, prefill_tokens=100)
    drive.add(4, 29)
    drive.turns(2)
    held = drive.add(4, 4)
    block(drive)

    works = drive.turns(HOLD_STEPS + 1)

    assert all(isinstance(work, StepWork) for work in works[:-1])
    assert works[-1] == PrefillWork((Part(held, 0, 4),))
    drive.finish()


def test_each_prompt_that_gets_a_slot_is_held_anew_while_others_wait() -> None:
    drive = Drive(slots=2, pages=100, page_tokens=4, prefill_tokens=100)
    drive.add(4, 90)
    drive.turns(2)
    for _ in range(3):
        drive.add(4, 1)

    works = drive.turns(3 * HOLD_STEPS)

    prefills = [number for number, work in enumerate(works) if isinstance(work, PrefillWork)]
    # the last one has nobody to wait for
    assert prefills[:2] == [HOLD_STEPS, 2 * HOLD_STEPS + 2]
    assert len(prefills) == 3
    drive.finish()


def test_prompts_are_not_held_once_they_fill_a_prefill() -> None:
    drive = Drive(slots=4, pages=100, page_tokens=4, prefill_tokens=20)
    drive.add(4, 29)
    drive.turns(2)
    for _ in range(5):
        drive.add(10, 4)

    assert tokens_of(drive.turn()) == 20


def test_one_slot_in_twenty_goes_to_bulk_while_both_lanes_wait() -> None:
    drive = Drive(slots=2, pages=100, page_tokens=4, prefill_tokens=100)
    for lane in ("bulk", "interactive"):
        for _ in range(60):
            drive.add(1, 1, lane)

    drive.finish()

    lanes = [stay.lane for stay in drive.entered]
    assert [at for at, lane in enumerate(lanes[:60]) if lane == "bulk"] == [19, 39, 59]


def test_bulk_leaves_a_slot_free_and_interactive_is_prefilled_in_it_at_once() -> None:
    drive = Drive(slots=4, pages=100, page_tokens=4, prefill_tokens=50, reserve=1)
    for _ in range(6):
        drive.add(4, 40, "bulk")
    drive.turns(6)
    assert len(drive.scheduler.seated) == 3

    late = drive.add(4, 40)

    assert drive.turn() == PrefillWork((Part(late, 0, 4),))
    drive.finish()


def test_bulk_leaves_pages_for_who_is_to_have_the_free_slot() -> None:
    drive = Drive(slots=4, pages=20, page_tokens=4, prefill_tokens=50, reserve=1)
    long = [drive.add(24, 9, "bulk") for _ in range(3)]
    drive.turn()
    # two of them take 16 pages, and 5 are a slot's
    assert [stay.slot is not None for stay in long] == [True, False, False]

    late = drive.add(8, 9)
    drive.turn()

    assert late.slot is not None
    drive.finish()


def test_bulk_gets_its_turn_however_many_interactive_prompts_come() -> None:
    drive = Drive(slots=4, pages=100, page_tokens=4, prefill_tokens=50, reserve=1)
    bulk = [drive.add(1, 1, "bulk") for _ in range(4)]
    for _ in range(100):
        drive.add(1, 1)
    drive.finish()

    places = [drive.entered.index(stay) for stay in bulk]
    assert places == [19, 39, 59, 79]


@pytest.mark.parametrize(("tokens", "prefills"), [(3000, 1), (6000, 1), (13_000, 2)])
def test_an_interactive_prompt_is_prefilled_before_bulk_that_got_slots_sooner(tokens: int, prefills: int) -> None:
    drive = Drive(slots=100, pages=100_000, page_tokens=4, prefill_tokens=7000)
    drive.add(10, 100, "bulk")
    drive.turns(3)
    for _ in range(9):
        drive.add(3000, 5, "bulk")
    drive.turns(2)
    late = drive.add(tokens, 5)

    works = [work for work in drive.turns(2 * prefills) if isinstance(work, PrefillWork)]

    assert [work.parts[0].stay for work in works] == [late] * prefills
    assert late.prefilled == tokens
    drive.finish()


def test_what_is_begun_goes_on_before_interactive_and_nobody_is_passed_over_for_ever() -> None:
    drive = Drive(slots=100, pages=100_000, page_tokens=4, prefill_tokens=70)
    drive.add(10, 300, "bulk")
    drive.turns(3)
    cut, waiting = drive.add(130, 5, "bulk"), drive.add(50, 5, "bulk")
    drive.turn()
    for _ in range(20):
        drive.add(50, 5)

    works = [work for work in drive.turns(30) if isinstance(work, PrefillWork)]

    assert works[0].parts[0] == Part(cut, 70, 130)
    assert [work.parts[0].stay is waiting for work in works].index(True) == 1 + PASSED_MOST
    drive.finish()


@pytest.mark.parametrize("lane", LANES)
def test_who_is_to_be_alone_gets_its_turn_however_many_come(lane: Lane) -> None:
    drive = Drive(slots=3, pages=100, page_tokens=4, prefill_tokens=100)
    drive.add(4, 4)
    drive.turn()
    alone = drive.add(4, 4, lane, alone=True)
    for _ in range(200):
        drive.add(4, 4)
        drive.turn()
        if alone.slot is not None:
            break

    assert drive.scheduler.seated == (alone,)
    assert len(drive.entered) <= BULK_TURN + 1
    drive.turns(2)
    assert drive.scheduler.seated == (alone,)


def test_a_prompt_that_ends_while_it_waits_is_passed_over() -> None:
    drive = Drive(slots=1, pages=100, page_tokens=4, prefill_tokens=100)
    drive.add(4, 4)
    drive.turn()
    gone, next_one = drive.add(4, 4, alone=True), drive.add(4, 4)
    drive.end(gone)

    drive.finish()

    assert drive.entered[1:] == [next_one]


def test_leaving_twice_gives_nothing_back_twice() -> None:
    drive = Drive(slots=2, pages=100, page_tokens=4, prefill_tokens=100)
    stay = drive.add(4, 4)
    drive.turn()
    drive.scheduler.leave(stay)
    drive.scheduler.leave(stay)

    assert drive.pages.free == 100
    assert len({drive.scheduler._free.pop() for _ in range(2)}) == 2


def test_an_answer_of_one_token_comes_of_the_prefill() -> None:
    drive = Drive(slots=1, pages=1, page_tokens=4, prefill_tokens=4)
    drive.add(4, 1)

    assert isinstance(drive.turn(), PrefillWork)
    assert drive.turns(2) == [None, None]
    drive.finish()


def test_what_is_more_than_all_pages_never_fits() -> None:
    scheduler = Scheduler(1, Pages(10, 4), 100)

    # the answer's last token is never read again
    assert scheduler.fits(Stay(tokens=31, most=10))
    assert not scheduler.fits(Stay(tokens=32, most=10))


def test_pages_that_are_not_free_are_not_given() -> None:
    pages = Pages(3, 4)
    pages.take(2)

    with pytest.raises(ValueError, match="2 pages are wanted and 1 are free"):
        pages.take(2)
    assert pages.free == 1
