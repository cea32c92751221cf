"""Measures an engine called directly, with a worker's image decoding, on W1 and W2."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from bench.engines import HasStats
from bench.report import Figure, Report
from bench.work import Stock, any_words, poisson
from workers.engine.base import Engine
from workers.engine.continuous.stats import Stats
from workers.tune.trial import Question, Trial, TrialRun

#: decode steps timed together
_STEPS = 64
#: tokens of an answer that lasts until all other rows are prefilled
_LONG = 256
#: limit for all rows to be in their slots
_WAIT_S = 120.0
_ALONE = 10
# floor and aim: jobs/s, s, ms, ms
W1_WANTED = (18.0, 25.0)
ALONE_WANTED = (0.9, 0.45)
PREFILL_WANTED = (33.0, 20.0)
STEP_WANTED = (38.0, 28.0)
#: rows for which STEP_WANTED holds
_STEP_ROWS = 128
#: share of the saturated rate
_W2_LOAD = 0.7
_W2_ALONE = 24


@dataclass(frozen=True)
class Direct:
    """Measurements on a running trial; every method adds to the report."""

    trial: Trial
    report: Report
    repeats: int
    slots: int
    #: prefix of the figures' names
    name: str
    #: whether floors and aims apply
    wanted: bool = False

    def saturated(self, stock: Stock) -> Figure:
        """Submit the whole stock at once, with new images in each repeat."""
        self.warm_up(stock)
        runs = [self._all_at_once(stock.take()) for _ in range(self.repeats)]
        rates = [run.rate for run, _ in runs]
        wanted = self._wanted(W1_WANTED)
        figure = Figure(f"{self.name}, all at once", "jobs/s", rates, "more", *wanted, notes=self._notes(runs[0]))
        self.report.add(figure)
        # includes the prompt's text and the first token of each answer
        prefill_ms = [1000 * each.prefill_s / len(run.latencies_s) for run, each in runs if each]
        if prefill_ms:
            what = f"{self.name}: prefill an image, in a full queue"
            self.report.add(Figure(what, "ms", prefill_ms, "less", *self._wanted(PREFILL_WANTED)))
        return figure

    def guided(self, stock: Stock, free: Figure) -> None:
        """Measure W1 with a grammar for every answer, and the ratio to `free`, without grammars."""
        grammar = any_words()

        def kept(questions: Sequence[Question]) -> list[Question]:
            return [replace(question, grammar=grammar) for question in questions]

        self.trial.run(kept(stock.take(self.slots, tokens=4)), self.slots)
        runs = [self._all_at_once(kept(stock.take())) for _ in range(self.repeats)]
        rates = [run.rate for run, _ in runs]
        what, notes = f"{self.name}, all at once, answers kept to a grammar", self._notes(runs[0])
        self.report.add(Figure(what, "jobs/s", rates, notes=notes))
        of_free = [rate / free.median for rate in rates]
        self.report.add(Figure(f"{self.name}: kept to a grammar over free", "", of_free))

    def warm_up(self, stock: Stock) -> None:
        """Fill the slots once with short answers, so that one-time work is done before measuring."""
        self.trial.run(stock.take(self.slots, tokens=4), self.slots)

    def alone(self, stock: Stock) -> None:
        """Measure the latency of jobs submitted one at a time."""
        medians = [self.trial.run(stock.take(_ALONE), 1).percentile(50) for _ in range(self.repeats)]
        what = f"{self.name}, one alone, p50 of {_ALONE}"
        self.report.add(Figure(what, "s", medians, "less", *self._wanted(ALONE_WANTED)))

    def steps(self, stock: Stock, rows: Sequence[int]) -> None:
        """Measure a decode step for each of these numbers of rows."""
        engine = self.trial.engine
        if not isinstance(engine, HasStats):
            return
        for count in rows:
            if count <= self.slots:
                try:
                    ms = [self._step_ms(engine, engine, stock.take(count, tokens=_LONG)) for _ in range(self.repeats)]
                except TimeoutError as error:
                    # the card has no memory for this many rows at once
                    self.report.say(str(error))
                    continue
                wanted = self._wanted(STEP_WANTED) if count == _STEP_ROWS else (None, None)
                self.report.add(Figure(f"{self.name}: step at {count} rows", "ms", ms, "less", *wanted))

    def mixed(self, stock: Stock) -> None:
        """Measure W2: the saturated rate, then latency at a share of it, against jobs one at a time."""
        self.warm_up(stock)
        run, _ = self._all_at_once(stock.take())
        self.report.add(Figure(f"{self.name}, all at once", "jobs/s", [run.rate], notes={"jobs": len(run.latencies_s)}))
        one_by_one = self.trial.run(stock.take(_W2_ALONE), 1)
        alone = one_by_one.percentile(50)
        notes = {"p95_s": round(one_by_one.percentile(95), 3)}
        self.report.add(Figure(f"{self.name}, one alone, p50 of {_W2_ALONE}", "s", [alone], "less", notes=notes))
        asked = stock.take()
        loaded = self.trial.run(asked, len(asked), poisson(len(asked), _W2_LOAD * run.rate))
        at = f"{self.name}, at {_W2_LOAD:.0%} of that"
        p50, p95 = (loaded.percentile(part) for part in (50, 95))
        self.report.add(Figure(f"{at}: p50", "s", [p50], "less", notes={"over_alone": round(p50 / alone, 2)}))
        self.report.add(Figure(f"{at}: p95", "s", [p95], "less", notes={"over_alone_p50": round(p95 / alone, 2)}))
        self.report.add(Figure(f"{at}: p95 over the p50 of one alone", "", [p95 / alone], "less", aim=2))

    def _all_at_once(self, asked: Sequence[Question]) -> tuple[TrialRun, _Computed | None]:
        before = _stats(self.trial.engine)
        run = self.trial.run(asked, len(asked))
        self.report.say(f"{self.name}: {len(asked)} jobs in {run.seconds:.2f} s, {run.rate:.2f} jobs/s")
        after = _stats(self.trial.engine)
        return run, _Computed.between(before, after) if before and after else None

    def _wanted(self, floor_and_aim: tuple[float, float]) -> tuple[float | None, float | None]:
        return floor_and_aim if self.wanted else (None, None)

    def _notes(self, measured: tuple[TrialRun, _Computed | None]) -> dict[str, object]:
        run, computed = measured
        notes: dict[str, object] = {"jobs": len(run.latencies_s), "tokens_per_s": round(run.tokens / run.seconds)}
        if computed and computed.steps:
            notes |= {"steps": computed.steps, "step_ms": round(1000 * computed.step_s / computed.steps, 2)}
        if isinstance(self.trial.engine, HasStats):
            # since the start: the longest wait of decoding rows for a pass
            notes["longest_pass_ms"] = round(1000 * self.trial.engine.stats().longest_pass_s)
        if torch.cuda.is_available():
            notes["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
        return notes

    def _step_ms(self, engine: Engine, counter: HasStats, asked: Sequence[Question]) -> float:
        """Return the mean time of _STEPS consecutive steps over all rows."""
        prompts = [self.trial.prompt(question) for question in asked]
        futures = [engine.submit(prompt) for prompt in prompts]
        end = time.monotonic() + _WAIT_S
        full: _Computed | None = None
        first = counter.stats()
        try:
            while full is None or full.steps < _STEPS:
                if time.monotonic() > end or any(future.done() for future in futures):
                    raise TimeoutError(f"{len(prompts)} rows were not in their slots for {_STEPS} steps")
                time.sleep(0.002)
                now = _Computed.between(first, counter.stats())
                if now.steps and now.rows < len(prompts):
                    first, full = counter.stats(), None
                elif now.steps:
                    full = now
        finally:
            for prompt in prompts:
                engine.cancel(prompt.id)
            for future in futures:
                future.exception()
        return 1000 * full.step_s / full.steps


@dataclass(frozen=True)
class _Computed:
    """What an engine computed between two readings of its stats."""

    steps: int
    step_tokens: int
    step_s: float
    #: of passes with chunks of prompts, the decoding rows in them included
    prefill_s: float

    @classmethod
    def between(cls, before: Stats, after: Stats) -> _Computed:
        return cls(
            after.steps - before.steps,
            after.step_tokens - before.step_tokens,
            after.step_s - before.step_s,
            (after.pass_s - after.step_s) - (before.pass_s - before.step_s),
        )

    @property
    def rows(self) -> float:
        """Mean rows of a step."""
        return self.step_tokens / self.steps


def _stats(engine: Engine) -> Stats | None:
    return engine.stats() if isinstance(engine, HasStats) else None
