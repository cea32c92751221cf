from __future__ import annotations

import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from workers.engine.continuous.block_manager import BlockManager

#: seconds for each of 256 blocks; a shared test machine takes a tenth of it
BLOCK_S = 20e-6


def names(*chain: int) -> list[bytes]:
    return [b"%d" % name for name in chain]


def hold(blocks: BlockManager, chain: list[bytes], count: int) -> tuple[int, ...]:
    """Take what is found of a chain and allocate the rest, as a sequence with so many blocks does."""
    found = blocks.find(chain)
    blocks.share(found)
    held = found + blocks.allocate(count - len(found))
    for block, hash in zip(held, chain, strict=False):
        blocks.register(block, hash)
    return held


def test_blocks_that_are_not_free_are_not_given() -> None:
    blocks = BlockManager(3, 4)
    blocks.allocate(2)

    with pytest.raises(ValueError, match="cannot allocate 2 blocks: 1 are free"):
        blocks.allocate(2)
    assert blocks.num_free == 1


def test_a_freed_block_is_found_until_it_is_evicted() -> None:
    blocks = BlockManager(4, 4)
    held = hold(blocks, names(1, 2), 3)
    blocks.free(held)

    assert blocks.num_free == 4
    assert blocks.find(names(1, 2, 3)) == held[:2]

    blocks.allocate(4)

    assert blocks.find(names(1, 2)) == ()


def test_blocks_that_hold_nothing_to_find_are_taken_first_then_tails_before_heads_and_the_oldest_chain() -> None:
    blocks = BlockManager(7, 4)
    old, new = hold(blocks, names(1, 2, 3), 3), hold(blocks, names(4, 5), 3)
    blocks.free(old)
    blocks.free(new)

    taken = [blocks.allocate(1)[0] for _ in range(7)]

    assert set(taken[:2]) == {6, new[2]}
    assert taken[2:] == [*reversed(old), *reversed(new[:2])]


def test_a_chain_that_is_used_again_is_evicted_later() -> None:
    blocks = BlockManager(4, 4)
    first, second = hold(blocks, names(1, 2), 2), hold(blocks, names(3, 4), 2)
    blocks.free(first)
    blocks.free(second)
    blocks.free(hold(blocks, names(1, 2), 2))

    assert set(blocks.allocate(2)) == set(second)
    assert blocks.find(names(1, 2)) == first


def test_a_shared_block_is_free_when_the_last_user_has_left() -> None:
    blocks = BlockManager(3, 4)
    first = hold(blocks, names(1), 1)
    second = hold(blocks, names(1), 1)
    assert first == second

    blocks.free(first)
    assert blocks.num_free == 2
    assert not blocks.num_unused(second)
    blocks.allocate(2)
    assert blocks.find(names(1)) == second

    blocks.free(second)
    assert blocks.num_free == blocks.num_unused(second) == 1


def test_of_two_blocks_with_one_content_the_first_is_found() -> None:
    blocks = BlockManager(2, 4)
    first, second = blocks.allocate(1), blocks.allocate(1)
    blocks.register(first[0], b"1")
    blocks.register(second[0], b"1")
    # it was not registered, so nothing is forgotten
    blocks.forget(second[0])
    blocks.free(second)

    assert blocks.find(names(1)) == first


@pytest.mark.parametrize("freed", [False, True], ids=["held", "freed"])
def test_what_is_forgotten_is_not_found_and_its_block_is_free_as_any_other(freed: bool) -> None:
    blocks = BlockManager(2, 4)
    held = hold(blocks, names(1), 1)
    if freed:
        blocks.free(held)
    blocks.forget(held[0])
    if not freed:
        blocks.free(held)

    assert blocks.find(names(1)) == ()
    assert sorted(blocks.allocate(2)) == [0, 1]


class Users(RuleBasedStateMachine):
    """Takes and frees chains with common beginnings, and keeps books of references."""

    @initialize(count=st.integers(1, 12))
    def begin(self, count: int) -> None:
        self.blocks = BlockManager(count, 4)
        self.held: list[tuple[tuple[int, ...], list[bytes]]] = []

    @rule(begin=st.integers(0, 2), length=st.integers(0, 4), own=st.integers(0, 3))
    def take(self, begin: int, length: int, own: int) -> None:
        chain = [b"%d %d" % (begin, at) for at in range(length)]
        found, free = self.blocks.find(chain), self.blocks.num_free
        needed = length + own - len(found)
        unused = self.blocks.num_unused(found)
        if needed <= free - unused:
            self.held.append((hold(self.blocks, chain, length + own), chain))
            assert self.blocks.num_free == free - unused - needed

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self.blocks.free(self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))[0])

    @invariant()
    def what_is_held_is_found_and_not_given_to_others(self) -> None:
        if not hasattr(self, "blocks"):
            return
        users: dict[int, set[bytes | None]] = {}
        for held, chain in self.held:
            assert self.blocks.find(chain) == held[: len(chain)]
            for block, hash in zip(held, [*chain, *[None] * (len(held) - len(chain))], strict=True):
                users.setdefault(block, set()).add(hash)
        assert all(len(hashes) == 1 for hashes in users.values())
        assert self.blocks.num_free == self.blocks.num_blocks - len(users)
        # every block that is known can be reached through those before it
        known = self.blocks._blocks
        assert all(
            b"%s %d" % (begin, at) in known for begin, last in map(bytes.split, known) for at in range(int(last))
        )

    def teardown(self) -> None:
        if hasattr(self, "blocks"):
            for held, _ in self.held:
                self.blocks.free(held)
            assert sorted(self.blocks.allocate(self.blocks.num_blocks)) == list(range(self.blocks.num_blocks))
            assert not self.blocks._blocks


TestUsers = Users.TestCase
TestUsers.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_taking_and_freeing_hundreds_of_blocks_takes_microseconds_each() -> None:
    blocks = BlockManager(20_000, 64)
    chain = names(*range(20_000))
    blocks.free(hold(blocks, chain, 20_000))

    def seconds() -> float:
        began = time.perf_counter()
        blocks.free(blocks.allocate(256))
        blocks.free(hold(blocks, chain[:256], 256))
        return time.perf_counter() - began

    # each time the 256 allocated ones are those freed last, after the first time
    assert min(seconds() for _ in range(5)) < 4 * 256 * BLOCK_S
