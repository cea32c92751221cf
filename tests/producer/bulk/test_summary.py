"""Sums over all lines, and what they are said to have cost."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from producer.bulk.output.formats import LineSummary
from producer.bulk.output.totals import Histogram, Totals
from producer.bulk.summary import partial_lines, summary_lines
from vqa.answer import Timings, Usage


def line(total_s: float, engine_s: float = 0, worker: str = "card0@a", reused: bool = False) -> LineSummary:
    timings = Timings(queued_s=0, media_s=0, engine_s=engine_s, total_s=total_s)
    return LineSummary("id", None, Usage(prompt_tokens=1000, completion_tokens=10), timings, worker, reused)


@given(values=st.lists(st.floats(0.001, 1e6), min_size=1, max_size=200), share=st.sampled_from([0.5, 0.95, 1.0]))
def test_a_quantile_is_within_5_percent(values: list[float], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    true = sorted(values)[max(0, -(-int(share * 1000) * len(values) // 1000) - 1)]
    found = histogram.quantile(share)
    assert found is not None
    assert true / 1.05 <= found <= true * 1.05


def test_a_card_is_shared_by_its_slots_and_reused_answers_cost_nothing() -> None:
    totals = Totals()
    for one in (line(1, 8), line(1, 8, "card1@a"), line(1, 8, "gone@a"), line(1, 8, reused=True)):
        totals.add(one)
    assert totals.gpu_s({"card0@a": 4, "card1@a": 8}) == 8 / 4 + 8 / 8 + 8 / 6
    assert totals.gpu_s({}) == 24


def test_the_summary_says_how_many_tokens_were_cached() -> None:
    totals = Totals()
    for cached in (0, 768, 768):
        usage = Usage(prompt_tokens=1000, completion_tokens=10, cached_tokens=cached)
        totals.add(replace(line(2.0), usage=usage))
    assert "3,000 tokens in (1,536 of them cached), 30 out" in summary_lines(totals, 0, 10.0, {}, None)


def test_the_summary_says_everything() -> None:
    totals = Totals()
    for _ in range(4):
        totals.add(line(2.0, 1800))
    totals.add(line(2.0, reused=True))
    totals.add(LineSummary("id", "bad_image"))
    totals.add(LineSummary("id", "cancelled"))
    totals.add(LineSummary("id", "bad_image"))
    assert list(summary_lines(totals, 3, 10.0, {"card0@a": 2}, 2.5)) == [
        "5 answered, 3 failed (bad_image 2, cancelled 1)",
        "8 rows, 3 of them by earlier runs, 0.5 rows/s",
        "5,000 tokens in, 50 out; 1 answers reused",
        "from submission to answer: p50 1.97 s, p95 1.97 s (within 5 %)",
        "about 3,600.0 GPU seconds, 2.50 at 2.5 an hour (engine time divided by slots per worker (2))",
    ]


def test_rows_that_were_asked_about_in_part_are_counted_and_the_first_named() -> None:
    totals = Totals()
    assert list(partial_lines(totals)) == []
    for number in range(6):
        totals.add(replace(line(2.0), custom_id=f"row-{number}", is_partial=True))
        totals.add(line(2.0))
    named = "row-0, row-1, row-2, row-3, row-4, ..."
    assert list(partial_lines(totals)) == [f"6 rows were asked about the first frame only: {named}"]


def test_a_cpus_seconds_are_not_called_a_gpus() -> None:
    totals = Totals()
    totals.add(line(2.0, 1800))
    [*_, last] = summary_lines(totals, 0, 10.0, {"cpu@a": 2}, None)
    assert last == "about 900.0 CPU seconds (engine time divided by slots per worker (2))"
