"""How many jobs are handed out while others are open, without Redis."""

from hypothesis import given
from hypothesis import strategies as st

from producer import Job
from producer.client.submission import PreparedJob
from producer.client.url_images import UrlImages
from producer.client.window import Window
from producer.images.reader import ImageReader
from vqa.settings import QueueSettings


def no_images() -> UrlImages:
    """For jobs that name none by URL."""
    return UrlImages(ImageReader(QueueSettings()))


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
