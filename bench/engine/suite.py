"""The parts of `python -m bench.engine`, in the order in which they share a loaded model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.engine import targets
from bench.engine.celery_rate import Fleet, ThroughCelery
from bench.engine.direct import Direct
from bench.engine.engines import EngineName, Once, opened, release
from bench.engine.logit_error import engine_weights, is_float8, report_error
from bench.engine.report import Figure, Report
from bench.engine.routing import Routing
from bench.engine.shared import ORDERS, Shared
from bench.engine.work import ManyQuestions, Stock
from workers.engine.continuous.model.weights import language_weights
from workers.engine.settings import EngineSettings
from workers.tune.trial import Trial

#: all there are, in the order in which they run
PARTS = ("rival", "w1", "alone", "step", "guided", "w2", "w3", "w4", "off", "fp8", "celery", "streamed", "cards")
#: those that fit into ten minutes
DEFAULT_PARTS = ("rival", "w1", "alone", "w2", "w3", "w4", "off", "fp8", "celery")
ROWS = (1, 8, 32, 64, 128, 256)
#: jobs to measure transformers' `generate` with, by microbatch size
RIVALS = {1: 4, 32: 64, 64: 128}
#: enough for a prompt of W2 or W4 and its answer
SLOT_TOKENS = 2048


@dataclass(frozen=True)
class Suite:
    """One run of the benchmark."""

    options: argparse.Namespace
    report: Report
    settings: EngineSettings
    model: Once
    w1: Stock
    shared: Shared

    def run(self) -> None:
        """Measure the selected parts, with the model loaded once."""
        parts, routings = set(self.options.only), self.options.routing
        if "rival" in parts:
            for microbatch, jobs in RIVALS.items():
                self._rival(routings[-1], microbatch, jobs)
                release()
        called = None
        for routing in routings:
            # parts other than W1 use only the last routing, which is closer to a trained model's
            here = parts if routing == routings[-1] else parts & {"w1"}
            if here & {"w1", "alone", "step", "guided", "w2", "w3", "w4", "off", "celery"}:
                called = self._direct(routing, here) or called
                release()
        if "off" in parts:
            self._without_cache(routings[-1], called)
            release()
        if "fp8" in parts:
            self._float8(routings[-1])
            release()
        self.model.forget()
        if {"celery", "streamed", "cards"} & parts:
            self._through_celery(routings[-1], called)

    def _rival(self, routing: Routing, microbatch: int, jobs: int) -> None:
        """Measure transformers' `generate`, one job at a time or in full static batches."""
        settings = self.settings.model_copy(update={"microbatch": microbatch})
        name = f"W1, {routing} routing, generate with batch {microbatch}"
        with self._trial("pipeline", settings, max(RIVALS), routing, wait_s=2.0) as trial:
            asked = self.w1.take(jobs)
            trial.run(self.w1.take(microbatch, tokens=4), microbatch)
            run = trial.run(asked, min(jobs, microbatch) if microbatch == 1 else jobs)
            self.report.add(Figure(name, "jobs/s", [run.rate], notes={"jobs": jobs}))

    def _direct(self, routing: Routing, parts: set[str]) -> Figure | None:
        """Measure the engine called directly; return its rate on W1 if a selected part needs it."""
        options = self.options
        with self._trial(options.engine, self.settings, options.slots, routing) as trial:
            w1 = self._measures(trial, f"W1, {routing} routing, {options.engine}")
            rate = w1.saturated(self.w1) if {"w1", "guided", "off", "celery"} & parts else None
            if "alone" in parts:
                w1.alone(self.w1)
            if "step" in parts:
                w1.steps(self.w1, ROWS)
            if "guided" in parts and rate is not None:
                w1.guided(self.w1, rate)
            self._shared(w1, parts, options.engine)
            if "w2" in parts:
                self._mixed(trial, f"W2, {routing} routing, {options.engine}")
        return rate

    def _mixed(self, trial: Trial, name: str) -> None:
        self.report.say("drawing images for W2")
        self._measures(trial, name).mixed(Stock.w2(max(8, self.options.jobs // 2), self.options.size))

    def _shared(self, direct: Direct, parts: set[str], name: str) -> None:
        if {"w3", "celery"} & parts:
            self.shared.many_questions(direct, name)
        if "w4" in parts:
            self.shared.products(direct, name)

    def _without_cache(self, routing: Routing, cached: Figure | None) -> None:
        """Measure what the prefix cache costs where nothing is shared, and what it gains where prompts begin alike."""
        settings = self.settings.model_copy(update={"prefix_cache": False})
        name = f"{self.options.engine}, no prefix cache"
        with self._trial(self.options.engine, settings, self.options.slots, routing) as trial:
            direct = Direct(
                trial, self.report, self.options.repeats, self.options.slots, f"W1, {routing} routing, {name}"
            )
            rate = direct.saturated(self.w1)
            if cached is not None:
                ratios = [each / rate.median for each in cached.runs]
                what = "W1: with a prefix cache over without, nothing shared"
                self.report.add(Figure(what, "", ratios, "more", *self._limits(targets.CACHE_UNUSED, routing)))
            self._shared(direct, set(self.options.only) - {"celery"}, name)

    def _float8(self, routing: Routing) -> None:
        """Measure W1 (and W2 if selected) with the same weights in float8, and the logits' error with and without."""
        options, settings = self.options, self.settings.model_copy(update={"quant": "fp8"})
        report_error(self.report, language_weights(self.model(self.settings).model), targets.NOTHING)
        release()
        with self._trial(options.engine, settings, options.slots, routing) as trial:
            weights = engine_weights(trial.engine)
            if not is_float8(weights):
                self.report.say("fp8: the engine did not quantize the weights, so nothing is measured")
                return
            w1 = self._measures(trial, f"W1, {routing} routing, {options.engine}, fp8")
            w1.saturated(self.w1, targets.W1_FP8)
            w1.alone(self.w1)
            if "w2" in options.only:
                self._mixed(trial, f"W2, {routing} routing, {options.engine}, fp8")
        # its cache takes the memory that the reference needs
        del trial
        release()
        report_error(self.report, weights, self._limits(targets.LOGITS, routing))

    def _measures(self, trial: Trial, name: str) -> Direct:
        options = self.options
        wanted = self._limits(targets.W1, "spread" if "spread" in name else "plain") is not targets.NOTHING
        return Direct(trial, self.report, options.repeats, options.slots, name, wanted)

    def _limits(self, wanted: targets.Wanted, routing: Routing) -> targets.Wanted:
        applies = self.options.scale == "30b" and routing == "spread" and self.options.engine == "continuous"
        return wanted if applies else targets.NOTHING

    @contextmanager
    def _trial(
        self, engine: EngineName, settings: EngineSettings, slots: int, routing: Routing, wait_s: float | None = None
    ) -> Iterator[Trial]:
        self.report.say(f"starting {engine}, {slots} slots, {routing} routing")
        with (
            opened(engine, settings, slots, routing, self.model, wait_s) as made,
            Trial(made, settings) as trial,
        ):
            self.report.say("started")
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            yield trial

    def _through_celery(self, routing: Routing, called: Figure | None) -> None:
        options = self.options
        fleet = Fleet(Path(self.settings.model), options.engine, routing, options.slots, SLOT_TOKENS)
        name = f"W1, {routing} routing, {options.engine}, through Celery"
        with ThroughCelery(fleet, self.report) as through:
            one = Figure(name, "jobs/s", through.rates(1, self.w1, options.repeats))
            self.report.add(one)
            if called is not None and "celery" in options.only:
                shares = [rate / called.median for rate in one.runs]
                limits = self._limits(targets.CELERY_W1, routing)
                self.report.add(Figure(f"{name}, of what it does directly", "", shares, "more", *limits))
                self._w3_through_celery(through, self.shared.w3, routing)
            if "streamed" in options.only:
                shares = [rate / one.median for rate in through.streamed_rates(self.w1, options.repeats)]
                self.report.add(Figure(f"{name}, every answer streamed, of the same without", "", shares))
            if "cards" in options.only:
                many = Figure(
                    f"{name}, {options.cards} cards", "jobs/s", through.rates(options.cards, self.w1, options.repeats)
                )
                self.report.add(many)
                ratios = [rate / one.median for rate in many.runs]
                limits = self._limits(targets.CARDS, routing) if options.cards == 2 else targets.NOTHING
                self.report.add(Figure(f"{name}, {options.cards} cards over one", "", ratios, "more", *limits))

    def _w3_through_celery(self, through: ThroughCelery, w3: ManyQuestions, routing: Routing) -> None:
        for order in ORDERS:
            rates = [through.rate(w3.take(interleaved=order == "interleaved")) for _ in range(self.options.repeats)]
            name = f"W3, {order}, {self.options.engine}, through Celery"
            self.report.add(Figure(name, "jobs/s", rates))
            if direct := self.shared.cached.get(f"W3, {order}"):
                shares = [rate / direct.median for rate in rates]
                limits = self._limits(targets.CELERY_W3, routing)
                self.report.add(Figure(f"{name}, of what it does directly", "", shares, "more", *limits))
