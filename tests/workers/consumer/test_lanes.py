"""From which list a worker takes next, whatever waits and whatever it has in its hands."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from workers.consumer.lanes import ORDER, Lanes
from workers.engine.fair_share import BULK_TURN, Reserve


@dataclass
class Messages:
    """Those that a worker has not acknowledged, by the list that they came from."""

    prefetch_count: int
    queues: list[str] = field(default_factory=list)

    @property
    def unacked(self) -> int:
        return len(self.queues)

    @property
    def unacked_bulk(self) -> int:
        return sum(queue != "interactive" for queue in self.queues)


class Popping(RuleBasedStateMachine):
    """Messages come and end in any order, and are popped as Redis would: from the first list that has one."""

    @initialize(most=st.integers(1, 12), reserve=st.integers(0, 12))
    def begin(self, most: int, reserve: int) -> None:
        self.messages = Messages(most)
        self.share = max(1, most - reserve)
        self.lanes = Lanes(self.messages, Reserve(reserve))
        self.lanes.update(ORDER)
        self.waiting = dict.fromkeys(ORDER, 0)
        #: taken since a pop found less than it asked for
        self.of_backlog = 0
        #: by list: takes from those before it since its own, and those that it could have been instead
        self.since = dict.fromkeys(ORDER, 0)
        self.passed = dict.fromkeys(ORDER, 0)

    @rule(queue=st.sampled_from(ORDER), count=st.integers(1, 60))
    def comes(self, queue: str, count: int) -> None:
        self.waiting[queue] += count

    @precondition(lambda self: self.messages.unacked < self.messages.prefetch_count)
    @rule()
    def pops(self) -> None:
        order = self.lanes.consume(len(ORDER))
        assert self.lanes.skips_lists == (len(order) < len(ORDER))
        assert "interactive" in order
        count = self.lanes.count
        queue = next((queue for queue in order if self.waiting[queue]), None)
        found = min(count, self.waiting[queue]) if queue else 0
        assert count <= max(1, self.of_backlog // 4)
        self.of_backlog = self.of_backlog + found if found == count else 0
        for _ in range(found):
            assert queue is not None
            self.takes(queue)
        self.lanes.found(count, found)

    def takes(self, queue: str) -> None:
        bulk, taken = self.messages.unacked_bulk, self.messages.unacked
        assert taken < self.messages.prefetch_count
        self.waiting[queue] -= 1
        self.messages.queues.append(queue)
        self.lanes.rotate(queue)
        if queue != "interactive":
            assert bulk < self.share
            assert taken < self.share or self.since[queue] >= BULK_TURN - 1
        self.since[queue] = self.passed[queue] = 0
        for other in ORDER[ORDER.index(queue) + 1 :]:
            self.since[other] += 1
            self.passed[other] += self.waiting[other] > 0 and bulk < self.share
            # its turn and another's may fall together
            assert self.passed[other] <= BULK_TURN

    @rule(which=st.integers(0, 11), count=st.integers(1, 12))
    def ends(self, which: int, count: int) -> None:
        for _ in range(min(count, self.messages.unacked)):
            self.messages.queues.pop(which % self.messages.unacked)

    @rule(count=st.integers(1, 50))
    def floods(self, count: int) -> None:
        """With jobs that end at once."""
        for _ in range(count):
            self.waiting["interactive"] += 1
            if self.messages.unacked < self.messages.prefetch_count:
                before = self.messages.unacked
                self.pops()
                if self.messages.unacked > before and self.messages.queues[-1] == "interactive":
                    self.messages.queues.pop()


TestPopping = Popping.TestCase
TestPopping.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)


def take(lanes: Lanes, waiting: set[str], count: int) -> list[str]:
    taken = []
    for _ in range(count):
        queue = next(queue for queue in lanes.consume(3) if queue in waiting)
        lanes.rotate(queue)
        taken.append(queue)
    return taken


def ordered(messages: Messages, reserve: int = 0) -> Lanes:
    lanes = Lanes(messages, Reserve(reserve))
    lanes.update(["celery", "bulk", "interactive"])
    return lanes


def test_interactive_comes_first_except_for_one_take_in_twenty() -> None:
    taken = take(ordered(Messages(10)), {"interactive", "bulk"}, 60)
    assert [at for at, queue in enumerate(taken) if queue == "bulk"] == [19, 39, 59]


def test_no_list_starves_behind_the_two_others() -> None:
    taken = take(ordered(Messages(10)), set(ORDER), 400)
    assert taken.count("bulk") >= 18
    assert taken.count("celery") >= 18
    assert taken.count("interactive") >= 350


def test_what_other_apps_sent_is_not_starved_by_bulk() -> None:
    taken = take(ordered(Messages(10)), {"bulk", "celery"}, 40)
    assert taken.count("celery") == 2


def test_bulk_is_left_out_while_it_would_take_what_is_reserved() -> None:
    messages = Messages(5, ["bulk"] * 3)
    lanes = ordered(messages, reserve=1)
    assert list(lanes.consume(3)) == ["interactive", "bulk", "celery"]
    messages.queues.append("celery")
    assert list(lanes.consume(3)) == ["interactive"]
    assert lanes.skips_lists
    messages.queues[:] = ["interactive"] * 4
    assert list(lanes.consume(3)) == ["interactive"]
    messages.queues.pop()
    assert not lanes.skips_lists


@given(interactive=st.integers(0, 4), bulk=st.integers(0, 4))
def test_nothing_is_left_out_by_a_worker_that_takes_no_interactive_jobs(interactive: int, bulk: int) -> None:
    lanes = Lanes(Messages(4, (["interactive"] * interactive + ["bulk"] * bulk)[:4]), Reserve(2))
    lanes.update(["bulk"])
    assert list(lanes.consume(1)) == ["bulk"]
