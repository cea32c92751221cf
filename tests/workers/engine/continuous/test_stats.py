from __future__ import annotations

from dataclasses import dataclass

from workers.engine.continuous.scheduler import Batch
from workers.engine.continuous.sequence import Chunk, Sequence
from workers.engine.continuous.stats import StatsCounter
from workers.engine.stats import Stats


@dataclass(eq=False)
class Ended:
    """Tokens of a pass that ended at this time."""

    at: float

    def seconds_after(self, earlier: Ended) -> float:
        return self.at - earlier.at


def count(counter: StatsCounter, batch: Batch, at: float) -> None:
    counter.count(batch, Ended(at))  # their times are all that is counted


def test_passes_with_prompts_and_steps_add_up() -> None:
    decoding, prompt = Sequence(10, 5), Sequence(100, 5, num_cached=40)
    counter = StatsCounter()

    count(counter, Batch((), (Chunk(decoding, 0, 10),)), 1)
    count(counter, Batch((decoding,), (Chunk(prompt, 40, 70),)), 4)
    count(counter, Batch((decoding,), (Chunk(prompt, 70, 100),)), 6)
    count(counter, Batch((decoding, prompt), ()), 7)

    assert counter.stats == Stats(
        passes=4,
        # the first one began at an unknown time
        pass_s=6,
        longest_pass_s=3,
        steps=1,
        step_s=1,
        step_tokens=2,
        prompt_tokens=70,
        cached_tokens=40,
        answer_tokens=4,
    )


def test_idle_time_counts_for_no_pass() -> None:
    seq, counter = Sequence(10, 5), StatsCounter()
    count(counter, Batch((seq,), ()), 1)
    counter.begin()

    count(counter, Batch((seq,), ()), 100)
    count(counter, Batch((seq,), ()), 102)

    assert (counter.stats.pass_s, counter.stats.longest_pass_s, counter.stats.steps) == (2, 2, 3)


def test_the_longest_pass_is_one_in_which_somebody_decodes_and_can_be_measured_anew() -> None:
    seq, prompt, counter = Sequence(10, 5), Sequence(100, 5), StatsCounter()
    count(counter, Batch((seq,), ()), 1)
    count(counter, Batch((), (Chunk(prompt, 0, 100),)), 9)
    count(counter, Batch((seq,), ()), 11)
    assert counter.stats.longest_pass_s == 2

    counter.forget_longest_pass()
    count(counter, Batch((seq,), ()), 12)

    assert (counter.stats.longest_pass_s, counter.stats.passes) == (1, 4)
