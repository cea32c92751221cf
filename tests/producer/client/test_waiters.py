"""Who waits for what, without Redis and without a clock that matters."""

from hypothesis import given
from hypothesis import strategies as st

from producer.client.waiters import LOOK, Waiter, Waiters

ids = st.lists(st.sampled_from("abcdefgh"), max_size=12)


@given(asked=st.lists(ids, min_size=1, max_size=4), ended=st.lists(ids, max_size=6))
def test_each_wait_hears_of_each_of_its_jobs_once(asked: list[list[str]], ended: list[list[str]]) -> None:
    waiters = Waiters()
    each = [Waiter(lambda: None) for _ in asked]
    for wait, wanted in zip(each, asked, strict=True):
        waiters.add(wait, wanted)
    for batch in ended:
        waiters.deliver({id: id.encode() for id in batch})
    over = {id for batch in ended for id in batch}
    for wait, wanted in zip(each, asked, strict=True):
        assert sorted(id for id, _ in wait.arrived) == sorted(set(wanted) & over)
        assert set(wait.pending) == set(wanted) - over
        waiters.remove(wait)
    assert not waiters


def test_answers_gather_only_where_many_are_waited_for_and_few_were_read() -> None:
    waiters, wait = Waiters(), Waiter(lambda: None)
    waiters.add(wait, [f"q{number}" for number in range(20)])
    assert waiters.pause_s(1) == 0
    waiters.add(wait, [f"r{number}" for number in range(200)])
    assert 0 < waiters.pause_s(1) < 0.05
    assert waiters.pause_s(200) == 0


def test_every_open_job_has_its_turn_to_be_looked_at() -> None:
    waiters = Waiters()
    wait = Waiter(lambda: None)
    many = [f"q{number}" for number in range(LOOK + 500)]
    waiters.add(wait, many)
    first = waiters.ids_to_look_up([])
    # only what is announced until the next poll is due
    assert waiters.ids_to_look_up(["q7", "nobody's", "q7"]) == ["q7"]
    waiters._next_poll = 0.0
    second = waiters.ids_to_look_up([])
    assert first == many[:LOOK]
    assert second[:500] == many[LOOK:]
