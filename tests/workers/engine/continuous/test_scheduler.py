"""What the scheduler decides, in whatever order prompts come and go; no model, no tensors."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.workers.engine.continuous.drive import Drive
from vqa.jobs.lane import LANES, Lane
from workers.engine.continuous.block_manager import BlockManager
from workers.engine.continuous.scheduler import Batch, Scheduler
from workers.engine.continuous.sequence import Chunk, Sequence
from workers.engine.fair_share import BULK_TURN


class Traffic(RuleBasedStateMachine):
    """Prompts of all sizes, many of which begin alike, that come and end at any time; passes that fail."""

    @initialize(
        slots=st.integers(1, 6),
        blocks=st.integers(1, 40),
        block_size=st.integers(1, 8),
        prefill=st.one_of(st.integers(1, 6), st.integers(1, 60)),
        reserve=st.integers(0, 5),
    )
    def begin(self, slots: int, blocks: int, block_size: int, prefill: int, reserve: int) -> None:
        self.drive = Drive(slots, blocks, block_size, prefill, min(reserve, slots - 1))
        self.room = blocks * block_size

    @rule(share=st.floats(0, 1), most=st.integers(1, 20), lane=st.sampled_from(LANES), alone=st.integers(0, 9))
    def arrive(self, share: float, most: int, lane: Lane, alone: int) -> None:
        most = min(most, self.room)
        self.drive.add(max(1, round(share * (self.room - most + 1))), most, lane, alone == 0)

    @rule(tokens=st.integers(1, 3), lane=st.sampled_from(LANES))
    def arrive_small(self, tokens: int, lane: Lane) -> None:
        self.drive.add(min(tokens, self.room), 1, lane)

    @rule(
        begin=st.integers(0, 1),
        share=st.floats(0, 1),
        ends=st.lists(st.integers(0, 12), min_size=1, max_size=4),
        most=st.integers(1, 9),
        lane=st.sampled_from(LANES),
        alone=st.integers(0, 9),
    )
    def arrive_alike(self, begin: int, share: float, ends: list[int], most: int, lane: Lane, alone: int) -> None:
        """Some that begin with the same tokens, at once."""
        most = min(most, self.room)
        for number, end in enumerate(ends):
            shared = [begin] * round(share * (self.room - most))
            tokens = [*shared, *range(100 + number % 2, 100 + number % 2 + end)][: self.room - most + 1]
            self.drive.add(tokens or [begin], most, lane, alone == 0)

    @precondition(lambda self: self.drive.present)
    @rule(data=st.data())
    def end_one(self, data: st.DataObject) -> None:
        self.drive.end(data.draw(st.sampled_from(self.drive.present)))

    @rule(count=st.integers(1, 12))
    def compute(self, count: int) -> None:
        self.drive.turns(count)

    @rule(count=st.integers(1, 3))
    def fail(self, count: int) -> None:
        for _ in range(count):
            self.drive.turn(fails=True)

    @invariant()
    def the_books_agree(self) -> None:
        if hasattr(self, "drive"):
            self.drive.check()

    def teardown(self) -> None:
        if hasattr(self, "drive"):
            self.drive.finish()


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)


def only(work: Batch | None) -> Batch:
    assert work is not None
    return work


def chunks(work: Batch | None) -> tuple[Chunk, ...]:
    return only(work).chunks


def computed(works: list[Batch | None]) -> int:
    """Tokens of prompts that were computed."""
    return sum(chunk.num_tokens for work in works if work for chunk in work.chunks)


def test_a_prompt_that_arrives_is_computed_in_the_next_pass_beside_those_that_decode() -> None:
    drive = Drive(slots=4, blocks=100, block_size=4, prefill_tokens=50)
    first = drive.add(10, 20)
    drive.turns(3)

    late = drive.add(10, 20)

    assert drive.turn() == Batch((first,), (Chunk(late, 0, 10),))
    assert drive.turn() == Batch((first, late), ())
    drive.finish()


def test_each_that_decodes_takes_a_token_of_the_budget_before_prompts_do() -> None:
    drive = Drive(slots=4, blocks=100, block_size=4, prefill_tokens=30)
    decoding = [drive.add(5, 50), drive.add(5, 50)]
    drive.turns(3)
    long = drive.add(100, 5)

    works = drive.turns(5)

    assert [only(work).num_tokens for work in works] == [30, 30, 30, 18, 3]
    assert [chunk for work in works for chunk in chunks(work)] == [
        Chunk(long, start, min(100, start + 28)) for start in (0, 28, 56, 84)
    ]
    assert all(only(work).decode[:2] == tuple(decoding) for work in works)
    drive.finish()


@pytest.mark.parametrize("budget", [1, 3, 4])
def test_prompts_get_a_token_of_each_pass_though_as_many_decode_as_the_budget_has(budget: int) -> None:
    drive = Drive(slots=5, blocks=100, block_size=4, prefill_tokens=budget)
    for _ in range(4):
        drive.add(1, 40)
    drive.turns(5)

    late = drive.add(3, 5)

    assert [chunks(work) for work in drive.turns(3)] == [(Chunk(late, at, at + 1),) for at in range(3)]
    drive.finish()


def test_prompts_fill_a_pass_in_the_order_of_their_slots_and_the_last_one_is_split() -> None:
    drive = Drive(slots=4, blocks=100, block_size=4, prefill_tokens=30)
    first, second, third, small = (drive.add(tokens, 5) for tokens in (12, 12, 12, 4))

    together, rest = drive.turns(2)

    assert together == Batch((), (Chunk(first, 0, 12), Chunk(second, 0, 12), Chunk(third, 0, 6)))
    assert rest == Batch((first, second), (Chunk(third, 6, 12), Chunk(small, 0, 4)))
    assert only(together).sequences == (first, second)
    assert only(rest).sequences == (first, second, third, small)
    drive.finish()


def test_who_leaves_makes_room_at_the_next_turn() -> None:
    drive = Drive(slots=1, blocks=10, block_size=4, prefill_tokens=30)
    first = drive.add(10, 20)
    drive.turns(3)
    second = drive.add(30, 5)
    drive.turns(2)
    assert second.slot is None

    drive.end(first)

    assert drive.turn() == Batch((), (Chunk(second, 0, 30),))
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


def test_one_slot_in_twenty_goes_to_bulk_while_both_lanes_wait() -> None:
    drive = Drive(slots=2, blocks=100, block_size=4, prefill_tokens=100)
    for lane in ("bulk", "interactive"):
        for _ in range(60):
            drive.add(1, 1, lane)

    drive.finish()

    lanes = [seq.lane for seq in drive.entered]
    assert [at for at, lane in enumerate(lanes[:60]) if lane == "bulk"] == [19, 39, 59]


def test_bulk_leaves_a_slot_free_and_interactive_is_computed_in_it_at_once() -> None:
    drive = Drive(slots=4, blocks=100, block_size=4, prefill_tokens=50, reserve=1)
    bulk = [drive.add(4, 40, "bulk") for _ in range(6)]
    drive.turns(6)
    assert len(drive.scheduler.running) == 3

    late = drive.add(4, 40)

    assert drive.turn() == Batch(tuple(bulk[:3]), (Chunk(late, 0, 4),))
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


@pytest.mark.parametrize(("tokens", "passes"), [(30, 1), (60, 1), (130, 2)])
def test_an_interactive_prompt_is_computed_before_bulk_that_got_slots_sooner(tokens: int, passes: int) -> None:
    drive = Drive(slots=100, blocks=200, block_size=4, prefill_tokens=70)
    for _ in range(9):
        drive.add(30, 5, "bulk")
    drive.turn()
    late = drive.add(tokens, 5)

    works = drive.turns(passes)

    assert [chunks(work)[0].sequence for work in works] == [late] * passes
    assert late.num_prefilled == tokens
    drive.finish()


def test_bulk_in_a_slot_gets_one_pass_in_twenty_though_interactive_prompts_fill_each() -> None:
    drive = Drive(slots=4, blocks=100, block_size=4, prefill_tokens=40)
    bulk = drive.add(100, 1, "bulk")
    for _ in range(100):
        # answers of a token: the next pass is filled again, by others
        drive.add(40, 1)
        drive.add(40, 1)
        drive.turn()
        if bulk.num_prefilled == 100:
            break

    mine = [at for at, work in enumerate(drive.works) if chunks(work)[0].sequence is bulk]
    assert [later - at for at, later in zip(mine[-3:], mine[-2:], strict=False)] == [BULK_TURN] * 2
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


def test_an_answer_of_one_token_comes_of_the_prompts_pass() -> None:
    drive = Drive(slots=1, blocks=1, block_size=4, prefill_tokens=4)
    drive.add(4, 1)

    assert chunks(drive.turn())
    assert drive.turns(2) == [None, None]
    drive.finish()


def test_what_is_more_than_all_blocks_never_fits() -> None:
    scheduler = Scheduler(1, BlockManager(10, 4), 100)

    # the answer's last token is never read again
    assert scheduler.fits(Sequence(num_prompt_tokens=31, max_tokens=10))
    assert not scheduler.fits(Sequence(num_prompt_tokens=32, max_tokens=10))


def alike(shared: int, *ends: int) -> list[list[int]]:
    """Prompts that share tokens at the beginning, each with so many others after them."""
    return [[*range(shared), *[1000 + number] * end] for number, end in enumerate(ends)]


def test_prompts_that_begin_alike_and_arrive_together_compute_the_beginning_once() -> None:
    drive = Drive(slots=16, blocks=300, block_size=4, prefill_tokens=1000)
    prompts = [drive.add(tokens, 5) for tokens in alike(41, *[7] * 16)]

    work = drive.turn()

    # the beginning that they share is 10 whole blocks
    assert computed([work]) == 48 + 15 * 8
    assert [seq.num_cached for seq in prompts] == [0, *[40] * 15]
    # no block is taken twice
    assert drive.blocks.num_free == 300 - 10 - 16 * 3
    drive.finish()


def test_a_later_prompt_takes_what_a_finished_one_has_left() -> None:
    drive = Drive(slots=1, blocks=200, block_size=4, prefill_tokens=1000)
    first, second = (drive.add(tokens, 5) for tokens in alike(41, 3, 5))
    drive.finish()

    assert (first.num_cached, second.num_cached) == (0, 40)


@pytest.mark.parametrize(("tokens", "cached"), [(3, 0), (4, 0), (5, 4), (39, 36), (40, 36), (41, 40), (44, 40)])
def test_the_last_block_of_a_prompt_that_is_all_in_the_cache_is_computed_again(tokens: int, cached: int) -> None:
    drive = Drive(slots=2, blocks=30, block_size=4, prefill_tokens=100)
    first, again = drive.add(range(tokens), 9), drive.add(range(tokens), 9)
    drive.turn()

    assert again.num_cached == cached
    shared = cached // 4
    assert first.blocks[:shared] == again.blocks[:shared]
    assert not set(first.blocks[shared:]) & set(again.blocks)
    drive.finish()


def test_prompts_without_hashes_share_nothing() -> None:
    drive = Drive(slots=2, blocks=30, block_size=4, prefill_tokens=100)
    prompts = [drive.add(range(20), 5) for _ in range(2)]
    for seq in prompts:
        seq.block_hashes = ()

    assert computed([drive.turn()]) == 40
    assert [seq.num_cached for seq in prompts] == [0, 0]
    drive.finish()


def test_a_prompt_waits_for_an_older_one_on_its_lane_that_computes_its_beginning_over_passes() -> None:
    drive = Drive(slots=2, blocks=200, block_size=4, prefill_tokens=50)
    older, younger = (drive.add(tokens, 5) for tokens in alike(120, 4, 4))

    works = drive.turns(3)

    assert [chunk for work in works for chunk in chunks(work)] == [
        *(Chunk(older, 0, 50), Chunk(older, 50, 100), Chunk(older, 100, 124)),
        Chunk(younger, 120, 124),
    ]
    drive.finish()


def test_an_interactive_prompt_takes_what_bulk_has_computed_so_far_and_does_not_wait_for_the_rest() -> None:
    drive = Drive(slots=2, blocks=200, block_size=4, prefill_tokens=50)
    bulk, urgent = alike(120, 4, 4)
    slow = drive.add(bulk, 5, "bulk")
    drive.turn()
    late = drive.add(urgent, 5)

    works = drive.turns(2)

    assert [chunks(work)[0] for work in works] == [Chunk(late, 48, 98), Chunk(late, 98, 124)]
    assert chunks(works[1])[1] == Chunk(slow, 50, 74)
    drive.finish()
    # both have computed these; the blocks of one are found
    assert computed(drive.works) == 124 + 124 - 48


def test_what_is_shared_lets_more_prompts_enter_than_there_are_blocks_for_each_alone() -> None:
    drive = Drive(slots=8, blocks=20, block_size=4, prefill_tokens=100)
    prompts = [drive.add(tokens, 2) for tokens in alike(40, *[3] * 8)]

    # the first one takes 11, then each needs another
    drive.turns(2)

    assert sum(seq.slot is not None for seq in prompts) == 8
    drive.finish()


def test_blocks_of_one_that_waits_for_its_first_pass_are_not_evicted() -> None:
    drive = Drive(slots=3, blocks=40, block_size=4, prefill_tokens=20)
    first, second = alike(40, 4, 4)
    drive.add(first, 1)
    drive.turns(5)
    # in a slot, but behind another that has its turn
    drive.add(40, 1)
    again = drive.add(second, 1)
    drive.turn()
    assert again.slot is not None
    assert not again.num_prefilled
    drive.add(52, 1)

    drive.turns(2)

    assert again.num_cached == 40
    drive.finish()


def test_a_pass_that_failed_leaves_nothing_to_be_found_and_its_prompts_run_one_by_one() -> None:
    drive = Drive(slots=4, blocks=100, block_size=4, prefill_tokens=100)
    decoding = drive.add(4, 20)
    drive.turn()
    prompts = [drive.add(tokens, 5) for tokens in alike(20, 4, 4)]
    waiting = drive.add(alike(20, 0, 0, 6)[2], 5)

    drive.turn(fails=True)

    assert drive.blocks.num_free == 100 - len(decoding.blocks)
    one, two, three = drive.turns(3)
    assert one == Batch((decoding,), (Chunk(prompts[0], 0, 24),))
    # the first one has succeeded alone, and is shared
    assert two == Batch((decoding, prompts[0]), (Chunk(prompts[1], 20, 24),))
    assert three == Batch((decoding, *prompts), (Chunk(waiting, 20, 26),))
    drive.finish()
    assert drive.made[decoding] == 20


def test_a_prompt_that_failed_by_itself_is_ended_and_the_next_computes_its_beginning_anew() -> None:
    drive = Drive(slots=1, blocks=100, block_size=4, prefill_tokens=100)
    fails, beside = (drive.add(tokens, 5) for tokens in alike(20, 4, 4))
    drive.turn(fails=True)
    drive.end(fails)

    assert drive.turn() == Batch((), (Chunk(beside, 0, 24),))
    drive.finish()


def test_a_prompt_whose_later_chunk_failed_keeps_what_earlier_passes_have_computed() -> None:
    drive = Drive(slots=1, blocks=100, block_size=4, prefill_tokens=30)
    long = drive.add(70, 5)
    drive.turn()
    drive.turn(fails=True)

    assert [chunks(work) for work in drive.turns(2)] == [(Chunk(long, 28, 58),), (Chunk(long, 58, 70),)]
    drive.finish()
