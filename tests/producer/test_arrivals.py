"""Items of a slow source, read in a thread: all come, in order, and no more are read than are wanted."""

import threading
from collections.abc import Iterator
from contextvars import ContextVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.arrivals import arriving, arriving_singly

LONG_S = 60.0


@given(weights=st.lists(st.integers(0, 9), max_size=60), most=st.integers(1, 9), most_weight=st.integers(1, 20))
def test_every_item_comes_in_order_and_lists_keep_their_limits(weights: list[int], most: int, most_weight: int) -> None:
    lists = list(arriving(weights, LONG_S, most, lambda weight: weight, most_weight))
    assert [weight for some in lists for weight in some] == weights
    for some in lists:
        assert 1 <= len(some) <= most
        # the item that exceeds the limit is the last one
        assert sum(some[:-1]) < most_weight
    assert all(len(some) == most or sum(some) >= most_weight for some in lists[:-1])


def test_items_are_read_only_while_a_list_is_wanted() -> None:
    read: list[int] = []
    lists = arriving((read.append(number) or number for number in range(100)), LONG_S, 3)
    assert not read
    for wanted in (1, 2, 3):
        assert len(next(lists)) == 3
        assert len(read) == 3 * wanted


def test_what_is_there_comes_while_the_next_item_does_not() -> None:
    released = threading.Event()

    def items() -> Iterator[int]:
        yield from (1, 2)
        assert released.wait(LONG_S)
        yield 3

    singly = arriving_singly(items(), 0.01, 64)
    assert [next(filter(None, singly)) for _ in range(2)] == [1, 2]
    assert next(singly) is None
    released.set()
    assert list(filter(None, singly)) == [3]


def test_whoever_leaves_between_two_items_has_the_generator_to_himself_again() -> None:
    threads = threading.active_count()
    items = iter(range(10))
    lists = arriving(items, LONG_S, 4)
    assert next(lists) == [0, 1, 2, 3]
    # as the end of a loop does
    del lists
    assert next(items) == 4
    assert threading.active_count() == threads


def test_the_source_sees_the_context_variables_of_its_caller_and_errors_come_from_it() -> None:
    variable = ContextVar("variable", default="")
    variable.set("the caller's")

    def items() -> Iterator[str]:
        yield variable.get()
        raise KeyError("the source's")

    lists = arriving(items(), LONG_S, 1)
    assert next(lists) == ["the caller's"]
    with pytest.raises(KeyError, match="the source's"):
        next(lists)
