"""What the scheduler decides, in whatever order prompts come and go; no model, no tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vqa.job import LANES, Lane
from workers.engine.continuous.block_manager import BlockManager
from workers.engine.continuous.scheduler import (
    HOLD_STEPS,
    MAX_PASSED_OVER,
    DecodeBatch,
    PrefillBatch,
    Scheduler,
)
from workers.engine.continuous.sequence import Chunk, Sequence
from workers.engine.fair_share import BULK_TURN, Reserve

Work = PrefillBatch | DecodeBatch | None


def steps_of(tokens: int) -> int:
    """As many steps as a prefill of so many tokens takes: those who decode get them before the next one."""
    return min(HOLD_STEPS, 2 + tokens // 700)


class Drive:
    """The loop around a scheduler, with nothing computed: a sequence that a batch ends is finished one batch later.

    Checks each decision by books of its own.
    """

    def __init__(self, slots: int, blocks: int, block_size: int, prefill_tokens: int, reserve: int = 0) -> None:
        self.slots, self.prefill_tokens = slots, prefill_tokens
        #: slots that bulk may have
        self.share = slots - reserve
        self.blocks = BlockManager(blocks, block_size)
        self.scheduler = Scheduler(slots, self.blocks, prefill_tokens, Reserve(reserve))
        #: who has arrived and not left, in the order of arrival
        self.present: list[Sequence] = []
        #: who got a slot, in order
        self.entered: list[Sequence] = []
        #: how many of the last of them went before bulk that waited
        self.passed_bulk = 0
        #: steps since a prefill while somebody in a slot was not prefilled
        self.held = 0
        #: steps since the last prefill, and the tokens of that
        self.since_prefill = self.last_prefilled = 0
        #: by sequence: tokens of the prompt that were computed, tokens of the answer that were made
        self.computed: dict[Sequence, int] = {}
        self.made: dict[Sequence, int] = {}
        self.works: list[Work] = []
        self._ended: list[Sequence] = []
        self._at_their_end: list[Sequence] = []

    @property
    def waiting(self) -> list[Sequence]:
        return [seq for seq in self.present if seq.slot is None]

    @property
    def decoding(self) -> list[Sequence]:
        return [
            seq
            for seq in self.scheduler.running
            if self.computed[seq] == seq.num_prompt_tokens and self.made[seq] < seq.max_tokens
        ]

    def add(self, tokens: int, most: int, lane: Lane = "interactive", alone: bool = False) -> Sequence:
        seq = Sequence(tokens, most, lane, alone)
        assert self.scheduler.fits(seq)
        self.scheduler.add(seq)
        self.present.append(seq)
        self.computed[seq] = self.made[seq] = 0
        return seq

    def end(self, seq: Sequence) -> None:
        """By a stop, a deadline or a cancellation: seen at the next turn."""
        self._ended.append(seq)

    def turn(self) -> Work:
        for seq in self._ended:
            if seq in self.present:
                self.present.remove(seq)
                self.scheduler.finish(seq)
        self._ended = self._at_their_end
        waited, running, decoding = self.waiting, self.scheduler.running, self.decoding
        work = self.scheduler.schedule()
        self._check_entries(waited, running)
        match work:
            case PrefillBatch():
                assert not (decoding and isinstance(self._last, PrefillBatch)), "two prefills hold up who decodes"
                self._at_their_end = self._prefill(work)
            case DecodeBatch():
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
        chunks = (-(-seq.num_prompt_tokens // min(self.prefill_tokens, seq.num_prompt_tokens)) for seq in self.present)
        most = sum(chunks) + sum(seq.max_tokens + HOLD_STEPS for seq in self.present) + 4 * len(self.present) + 4
        for _ in range(most):
            self.turn()
            self.check()
        assert not self.present
        assert self.blocks.num_free == self.blocks.num_blocks
        assert not self.scheduler.running

    def check(self) -> None:
        running = self.scheduler.running
        slots = {seq.slot for seq in running}
        assert len(slots) == len(running)
        assert slots <= set(range(self.slots))
        blocks = [block for seq in running for block in seq.blocks]
        assert len(set(blocks)) == len(blocks)
        assert set(blocks) <= set(range(self.blocks.num_blocks))
        assert len(blocks) + self.blocks.num_free == self.blocks.num_blocks
        assert len(running) == 1 or not any(seq.alone for seq in running)
        for seq in running:
            assert len(seq.blocks) == -(-(seq.num_prompt_tokens + seq.max_tokens - 1) // self.blocks.block_size)
            assert seq.num_prefilled == self.computed[seq] <= seq.num_prompt_tokens
            assert seq.num_generated == self.made[seq] <= seq.max_tokens

    @property
    def _last(self) -> Work:
        return self.works[-1] if self.works else None

    def _check_entries(self, waited: list[Sequence], before: tuple[Sequence, ...]) -> None:
        inside = list(before)
        for seq in [seq for seq in self.scheduler.running if seq not in before]:
            bulk = sum(other.lane == "bulk" for other in inside)
            if seq.lane == "bulk":
                assert bulk < self.share
                assert len(inside) < self.share or self.passed_bulk >= BULK_TURN - 1
            inside.append(seq)
            assert seq is next(other for other in waited if other.lane == seq.lane), "overtaken on its own lane"
            waited.remove(seq)
            self.entered.append(seq)
            bulk_waits = any(other.lane == "bulk" for other in waited)
            self.passed_bulk = self.passed_bulk + 1 if bulk_waits and seq.lane != "bulk" else 0
            assert self.passed_bulk < BULK_TURN or bulk >= self.share

    def _prefill(self, work: PrefillBatch) -> list[Sequence]:
        self.held = self.since_prefill = 0
        self.last_prefilled = work.num_tokens
        assert 0 < self.last_prefilled <= self.prefill_tokens
        assert len({chunk.sequence for chunk in work.chunks}) == len(work.chunks)
        for chunk in work.chunks:
            assert chunk.sequence in self.scheduler.running
            assert self.computed[chunk.sequence] == chunk.start < chunk.stop <= chunk.sequence.num_prompt_tokens
            if chunk.stop < chunk.sequence.num_prompt_tokens:
                assert chunk.sequence.num_prompt_tokens - chunk.start > self.prefill_tokens, "cut without need"
            self.computed[chunk.sequence] = chunk.stop
        whole = [chunk.sequence for chunk in work.chunks if chunk.is_last]
        self.made.update(dict.fromkeys(whole, 1))
        return [seq for seq in whole if seq.max_tokens == 1]

    def _step(self, work: DecodeBatch) -> list[Sequence]:
        assert list(work.sequences) == self.decoding != []
        if any(self.computed[seq] < seq.num_prompt_tokens for seq in self.scheduler.running):
            self.held += 1
            assert self.held <= HOLD_STEPS
            if not self.waiting and len(self.scheduler.running) < self.slots:
                assert self.since_prefill < steps_of(self.last_prefilled), "held, and nobody is waited for"
        self.since_prefill += 1
        for seq in work.sequences:
            self.made[seq] += 1
        return [seq for seq in work.sequences if self.made[seq] == seq.max_tokens]

    def _check_idle(self) -> None:
        assert not self.decoding
        assert all(self.computed[seq] == seq.num_prompt_tokens for seq in self.scheduler.running)
        assert self.scheduler.running or not self.waiting


class Traffic(RuleBasedStateMachine):
    """Prompts of all sizes that come and end at any time."""

    @initialize(
        slots=st.integers(1, 6),
        blocks=st.integers(1, 40),
        block_size=st.integers(1, 8),
        prefill=st.integers(1, 60),
        reserve=st.integers(0, 5),
    )
    def begin(self, slots: int, blocks: int, block_size: int, prefill: int, reserve: int) -> None:
        self.drive = Drive(slots, blocks, block_size, prefill, min(reserve, slots - 1))

    @rule(share=st.floats(0, 1), most=st.integers(1, 20), lane=st.sampled_from(LANES), alone=st.integers(0, 9))
    def arrive(self, share: float, most: int, lane: Lane, alone: int) -> None:
        room = self.drive.blocks.num_blocks * self.drive.blocks.block_size
        most = min(most, room)
        self.drive.add(max(1, round(share * (room - most + 1))), most, lane, alone == 0)

    @rule(tokens=st.integers(1, 3), lane=st.sampled_from(LANES))
    def arrive_small(self, tokens: int, lane: Lane) -> None:
        self.drive.add(min(tokens, self.drive.blocks.num_blocks * self.drive.blocks.block_size), 1, lane)

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
    assert isinstance(work, PrefillBatch)
    return work.num_tokens


def test_a_prompt_that_arrives_is_prefilled_at_once_beside_those_that_decode() -> None:
    drive = Drive(slots=4, blocks=100, block_size=4, prefill_tokens=50)
    drive.add(10, 20)
    drive.turns(3)

    late = drive.add(10, 20)

    assert drive.turn() == PrefillBatch((Chunk(late, 0, 10),))
    both = drive.turn()
    assert isinstance(both, DecodeBatch)
    assert late in both.sequences


@pytest.mark.parametrize(("tokens", "steps"), [(1, 2), (699, 2), (700, 3), (2800, 6), (20_000, HOLD_STEPS)])
def test_those_that_decode_get_as_much_time_as_a_prefill_took(tokens: int, steps: int) -> None:
    drive = Drive(slots=100, blocks=10_000, block_size=64, prefill_tokens=100_000)
    drive.add(tokens, 20)
    drive.turn()
    drive.add(1, 1)

    works = drive.turns(steps + 1)

    assert [isinstance(work, DecodeBatch) for work in works] == [*[True] * steps, False]


def kinds(works: list[Work]) -> list[int]:
    """Tokens of each prefill, 0 for a step."""
    return [tokens_of(work) if isinstance(work, PrefillBatch) else 0 for work in works]


def test_a_prompt_longer_than_a_prefill_is_cut_and_steps_go_on_between_its_chunks() -> None:
    drive = Drive(slots=2, blocks=100, block_size=4, prefill_tokens=30)
    drive.add(5, 50)
    drive.turns(3)
    drive.add(100, 5)

    assert kinds(drive.turns(9)) == [30, 0, 30, 0, 30, 0, 0, 10, 0]


def test_prompts_share_a_prefill_in_the_order_of_their_slots_and_are_not_cut_to_fill_it() -> None:
    drive = Drive(slots=4, blocks=100, block_size=4, prefill_tokens=30)
    first, second, third, small = (drive.add(tokens, 5) for tokens in (12, 12, 12, 4))

    together, *steps, last = drive.turns(4)

    assert together == PrefillBatch((Chunk(first, 0, 12), Chunk(second, 0, 12), Chunk(small, 0, 4)))
    assert all(isinstance(step, DecodeBatch) for step in steps)
    assert last == PrefillBatch((Chunk(third, 0, 12),))


def test_a_long_prompt_fills_up_what_others_leave_of_a_prefill() -> None:
    drive = Drive(slots=4, blocks=100, block_size=4, prefill_tokens=30)
    short, long = drive.add(12, 5), drive.add(40, 5)

    assert drive.turn() == PrefillBatch((Chunk(short, 0, 12), Chunk(long, 0, 18)))
    drive.finish()


def test_who_leaves_makes_room_at_the_next_turn() -> None:
    drive = Drive(slots=1, blocks=10, block_size=4, prefill_tokens=30)
    first = drive.add(10, 20)
    drive.turns(3)
    second = drive.add(30, 5)
    drive.turns(2)
    assert second.slot is None

    drive.end(first)

    assert drive.turn() == PrefillBatch((Chunk(second, 0, 30),))
    assert first.slot is None
    assert second.slot == 0


def test_who_waits_for_blocks_waits_at_the_head_and_nobody_goes_before() -> None:
    drive = Drive(slots=4, blocks=10, block_size=4, prefill_tokens=100)
    drive.add(20, 5)
    drive.turn()
    large, small = drive.add(30, 5), drive.add(1, 1)

    drive.turns(3)

    assert (large.slot, small.slot) == (None, None)
    drive.finish()
    assert drive.entered[1:] == [large, small]


def blocked_by_blocks(drive: Drive) -> None:
    drive.add(30, 8)


def blocked_by_one_that_is_alone(drive: Drive) -> None:
    drive.add(1, 1, alone=True)


@pytest.mark.parametrize("block", [blocked_by_blocks, blocked_by_one_that_is_alone])
def test_prompts_in_slots_are_held_for_others_that_cannot_enter_but_not_for_long(
    block: Callable[[Drive], None],
) -> None:
    drive = Drive(slots=4, blocks=12, block_size=4, prefill_tokens=100)
    drive.add(4, 29)
    drive.turns(2)
    held = drive.add(4, 4)
    block(drive)

    works = drive.turns(HOLD_STEPS + 1)

    assert all(isinstance(work, DecodeBatch) for work in works[:-1])
    assert works[-1] == PrefillBatch((Chunk(held, 0, 4),))
    drive.finish()


def test_each_prompt_that_gets_a_slot_is_held_anew_while_others_wait() -> None:
    drive = Drive(slots=2, blocks=100, block_size=4, prefill_tokens=100)
    drive.add(4, 90)
    drive.turns(2)
    for _ in range(3):
        drive.add(4, 1)

    works = drive.turns(3 * HOLD_STEPS)

    prefills = [number for number, work in enumerate(works) if isinstance(work, PrefillBatch)]
    # the last one has nobody to wait for
    assert prefills[:2] == [HOLD_STEPS, 2 * HOLD_STEPS + 2]
    assert len(prefills) == 3
    drive.finish()


def test_prompts_are_not_held_once_they_fill_a_prefill() -> None:
    drive = Drive(slots=4, blocks=100, block_size=4, prefill_tokens=20)
    drive.add(4, 29)
    drive.turns(2)
    for _ in range(5):
        drive.add(10, 4)

    assert tokens_of(drive.turn()) == 20


def test_one_slot_in_twenty_goes_to_bulk_while_both_lanes_wait() -> None:
    drive = Drive(slots=2, blocks=100, block_size=4, prefill_tokens=100)
    for lane in ("bulk", "interactive"):
        for _ in range(60):
            drive.add(1, 1, lane)

    drive.finish()

    lanes = [seq.lane for seq in drive.entered]
    assert [at for at, lane in enumerate(lanes[:60]) if lane == "bulk"] == [19, 39, 59]


def test_bulk_leaves_a_slot_free_and_interactive_is_prefilled_in_it_at_once() -> None:
    drive = Drive(slots=4, blocks=100, block_size=4, prefill_tokens=50, reserve=1)
    for _ in range(6):
        drive.add(4, 40, "bulk")
    drive.turns(6)
    assert len(drive.scheduler.running) == 3

    late = drive.add(4, 40)

    assert drive.turn() == PrefillBatch((Chunk(late, 0, 4),))
    drive.finish()


def test_bulk_leaves_blocks_for_who_is_to_have_the_free_slot() -> None:
    drive = Drive(slots=4, blocks=20, block_size=4, prefill_tokens=50, reserve=1)
    long = [drive.add(24, 9, "bulk") for _ in range(3)]
    drive.turn()
    # two of them take 16 blocks, and 5 are a slot's
    assert [seq.slot is not None for seq in long] == [True, False, False]

    late = drive.add(8, 9)
    drive.turn()

    assert late.slot is not None
    drive.finish()


def test_bulk_gets_its_turn_however_many_interactive_prompts_come() -> None:
    drive = Drive(slots=4, blocks=100, block_size=4, prefill_tokens=50, reserve=1)
    bulk = [drive.add(1, 1, "bulk") for _ in range(4)]
    for _ in range(100):
        drive.add(1, 1)
    drive.finish()

    places = [drive.entered.index(seq) for seq in bulk]
    assert places == [19, 39, 59, 79]


@pytest.mark.parametrize(("tokens", "prefills"), [(3000, 1), (6000, 1), (13_000, 2)])
def test_an_interactive_prompt_is_prefilled_before_bulk_that_got_slots_sooner(tokens: int, prefills: int) -> None:
    drive = Drive(slots=100, blocks=100_000, block_size=4, prefill_tokens=7000)
    drive.add(10, 100, "bulk")
    drive.turns(3)
    for _ in range(9):
        drive.add(3000, 5, "bulk")
    drive.turns(2)
    late = drive.add(tokens, 5)

    works = [work for work in drive.turns(2 * prefills) if isinstance(work, PrefillBatch)]

    assert [work.chunks[0].sequence for work in works] == [late] * prefills
    assert late.num_prefilled == tokens
    drive.finish()


def test_what_is_begun_goes_on_before_interactive_and_nobody_is_passed_over_for_ever() -> None:
    drive = Drive(slots=100, blocks=100_000, block_size=4, prefill_tokens=70)
    drive.add(10, 300, "bulk")
    drive.turns(3)
    cut, waiting = drive.add(130, 5, "bulk"), drive.add(50, 5, "bulk")
    drive.turn()
    for _ in range(20):
        drive.add(50, 5)

    works = [work for work in drive.turns(30) if isinstance(work, PrefillBatch)]

    assert works[0].chunks[0] == Chunk(cut, 70, 130)
    assert [work.chunks[0].sequence is waiting for work in works].index(True) == 1 + MAX_PASSED_OVER
    drive.finish()


@pytest.mark.parametrize("lane", LANES)
def test_who_is_to_be_alone_gets_its_turn_however_many_come(lane: Lane) -> None:
    drive = Drive(slots=3, blocks=100, block_size=4, prefill_tokens=100)
    drive.add(4, 4)
    drive.turn()
    alone = drive.add(4, 4, lane, alone=True)
    for _ in range(200):
        drive.add(4, 4)
        drive.turn()
        if alone.slot is not None:
            break

    assert drive.scheduler.running == (alone,)
    assert len(drive.entered) <= BULK_TURN + 1
    drive.turns(2)
    assert drive.scheduler.running == (alone,)


def test_a_prompt_that_ends_while_it_waits_is_passed_over() -> None:
    drive = Drive(slots=1, blocks=100, block_size=4, prefill_tokens=100)
    drive.add(4, 4)
    drive.turn()
    gone, next_one = drive.add(4, 4, alone=True), drive.add(4, 4)
    drive.end(gone)

    drive.finish()

    assert drive.entered[1:] == [next_one]


def test_leaving_twice_gives_nothing_back_twice() -> None:
    drive = Drive(slots=2, blocks=100, block_size=4, prefill_tokens=100)
    seq = drive.add(4, 4)
    drive.turn()
    drive.scheduler.finish(seq)
    drive.scheduler.finish(seq)

    assert drive.blocks.num_free == 100
    assert len({drive.scheduler._free_slots.pop() for _ in range(2)}) == 2


def test_an_answer_of_one_token_comes_of_the_prefill() -> None:
    drive = Drive(slots=1, blocks=1, block_size=4, prefill_tokens=4)
    drive.add(4, 1)

    assert isinstance(drive.turn(), PrefillBatch)
    assert drive.turns(2) == [None, None]
    drive.finish()


def test_what_is_more_than_all_blocks_never_fits() -> None:
    scheduler = Scheduler(1, BlockManager(10, 4), 100)

    # the answer's last token is never read again
    assert scheduler.fits(Sequence(num_prompt_tokens=31, max_tokens=10))
    assert not scheduler.fits(Sequence(num_prompt_tokens=32, max_tokens=10))


def test_blocks_that_are_not_free_are_not_given() -> None:
    blocks = BlockManager(3, 4)
    blocks.allocate(2)

    with pytest.raises(ValueError, match="cannot allocate 2 blocks: 1 are free"):
        blocks.allocate(2)
    assert blocks.num_free == 1
