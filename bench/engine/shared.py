"""Measures W3 and W4, whose prompts begin alike, against the same engine without its prefix cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from bench.engine import targets
from bench.engine.direct import Direct
from bench.engine.report import Figure
from bench.engine.work import ManyQuestions, Products
from workers.tune.trial import Question

ORDERS = ("in order", "interleaved")


@dataclass(frozen=True)
class Shared:
    """Measures engines one after another, and compares the one with a prefix cache to the one without."""

    w3: ManyQuestions
    w4: Products
    #: the figures of the engine with a prefix cache, by order and workload
    cached: dict[str, Figure] = field(default_factory=dict)

    def many_questions(self, direct: Direct, name: str) -> None:
        """Measure W3 in both orders; floors apply where there is a cache."""
        direct.all_at_once(self.w3.take(), "W3, to warm up")
        for order in ORDERS:
            take = partial(self.w3.take, interleaved=order == "interleaved")
            self._measure(direct, f"W3, {order}", name, take, direct.limits(targets.W3))

    def products(self, direct: Direct, name: str) -> None:
        """Measure W4."""
        direct.all_at_once(self.w4.take(), "W4, to warm up")
        self._measure(direct, "W4", name, self.w4.take, targets.NOTHING)

    def _measure(
        self, direct: Direct, work: str, name: str, take: Callable[[], Sequence[Question]], wanted: targets.Wanted
    ) -> None:
        is_rival = work in self.cached
        runs = [direct.all_at_once(take(), work) for _ in range(direct.repeats)]
        rates = [run.rate for run, _ in runs]
        notes: dict[str, object] = {"jobs": len(runs[0][0].latencies_s), "tokens": runs[0][0].tokens}
        if computed := runs[0][1]:
            notes["cached_share"] = round(computed.cached_share, 3)
        limits = targets.NOTHING if is_rival else wanted
        figure = Figure(f"{work}, {name}", "jobs/s", rates, "more", *limits, notes=notes)
        direct.report.add(figure)
        if is_rival:
            ratios = [rate / figure.median for rate in self.cached[work].runs]
            direct.report.add(Figure(f"{work}: with a prefix cache over without", "", ratios))
        else:
            self.cached[work] = figure
