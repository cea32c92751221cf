"""Who waiters for what, without Redis and without a clock that matters."""

from hypothesis import given
from hypothesis import strategies as st

from producer import Job
from producer.client.submission import PreparedJob
from producer.client.url_images import UrlImages
from producer.client.waiters import LOOK, Waiter, Waiters, Window
from producer.images.reader import ImageReader
from vqa.settings import QueueSettings

ids = st.lists(st.sampled_from("abcdefgh"), max_size=12)


def no_images() -> UrlImages:
    """For jobs that name none by URL."""
    return UrlImages(ImageReader(QueueSettings()))


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


@given(
    in_flight=st.integers(1, 40),
    number=st.integers(0, 60),
    ends=st.lists(st.integers(1, 40), max_size=5),
    refusals=st.lists(st.integers(0, 10), max_size=20),
)
def test_a_window_never_holds_more_than_it_may_and_lets_all_through_in_order(
    in_flight: int, number: int, ends: list[int], refusals: list[int]
) -> None:
    jobs = [Job(id=f"q{each}", messages=[{"role": "user", "content": "?"}]) for each in range(number)]
    window = Window(iter(jobs), in_flight, no_images())
    still_open = 0
    through: list[str] = []
    while still_open or not window.done:
        while chunk := window.due(still_open):
            let_in = max(0, len(chunk) - (refusals.pop() if refusals else 0))
            if rest := chunk[let_in:]:
                window.hold(rest, pause_s=0)
            still_open += let_in
            through += [job.id for job in chunk[:let_in]]
            assert still_open <= in_flight
        still_open -= min(still_open, ends.pop() if ends else 1)
    assert through == [job.id for job in jobs]


def test_what_is_held_is_due_after_its_pause_and_before_anything_else() -> None:
    jobs = [PreparedJob(Job(messages=[{"role": "user", "content": "?"}])) for _ in range(5)]
    window = Window(jobs, 100, no_images())
    assert window.due(0) == jobs[:1]
    window.hold(jobs[:1], pause_s=1000)
    assert window.due(0) == ()
    assert not window.done
    window.hold(jobs[:1], pause_s=0)
    assert window.due(0) == jobs[:1]
    assert window.due(1) == jobs[1:]
