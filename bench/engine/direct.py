"""Measures an engine called directly, with a worker's image decoding, on W1 and W2."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from bench.engine import targets
from bench.engine.report import Figure, Report
from bench.engine.targets import NOTHING, Wanted
from bench.engine.work import Stock, any_words, poisson
from workers.engine.base import Engine
from workers.engine.stats import HasStats, Stats
from workers.tune.trial import Question, Trial, TrialRun

#: decode steps timed together
_STEPS = 64
#: tokens of an answer that lasts until all other rows are prefilled
_LONG = 256
#: limit for all rows to be in their slots
_WAIT_S = 120.0
_ALONE = 10
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

    def saturated(self, stock: Stock, rate: Wanted = targets.W1) -> Figure:
        """Submit the whole stock at once, with new images in each repeat; `rate` is what is wanted."""
        self.warm_up(stock)
        runs = [self.all_at_once(stock.take()) for _ in range(self.repeats)]
        rates = [run.rate for run, _ in runs]
        wanted = self.limits(rate)
        figure = Figure(f"{self.name}, all at once", "jobs/s", rates, "more", *wanted, notes=self._notes(runs[0]))
        self.report.add(figure)
        self._pauses(f"{self.name}, all at once", [each.longest_pass_s for _, each in runs if each])
        # includes the prompt's text and the first token of each answer
        prefill_ms = [1000 * each.prefill_s / len(run.latencies_s) for run, each in runs if each]
        if prefill_ms:
            what = f"{self.name}: prefill an image, in a full queue"
            self.report.add(Figure(what, "ms", prefill_ms, "less", *self.limits(targets.PREFILL)))
        return figure

    def guided(self, stock: Stock, free: Figure) -> None:
        """Measure W1 with a grammar for every answer, and the ratio to `free`, without grammars."""
        grammar = any_words()

        def kept(questions: Sequence[Question]) -> list[Question]:
            return [replace(question, grammar=grammar) for question in questions]

        self.trial.run(kept(stock.take(self.slots, tokens=4)), self.slots)
        runs = [self.all_at_once(kept(stock.take())) for _ in range(self.repeats)]
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
        self.report.add(Figure(what, "s", medians, "less", *self.limits(targets.ALONE)))

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
                wanted = self.limits(targets.STEP) if count == targets.STEP_ROWS else NOTHING
                self.report.add(Figure(f"{self.name}: step at {count} rows", "ms", ms, "less", *wanted))

    def mixed(self, stock: Stock) -> None:
        """Measure W2: the saturated rate, then latency at a share of it, against jobs one at a time."""
        self.warm_up(stock)
        runs = [self.all_at_once(stock.take())[0] for _ in range(self.repeats)]
        rates, wanted, jobs = [run.rate for run in runs], self.limits(targets.W2), {"jobs": stock.count}
        saturated = Figure(f"{self.name}, all at once", "jobs/s", rates, "more", *wanted, notes=jobs)
        self.report.add(saturated)
        one_by_one = self.trial.run(stock.take(_W2_ALONE), 1)
        alone = one_by_one.percentile(50)
        notes = {"p95_s": round(one_by_one.percentile(95), 3)}
        self.report.add(Figure(f"{self.name}, one alone, p50 of {_W2_ALONE}", "s", [alone], "less", notes=notes))
        self._loaded(stock, _W2_LOAD * saturated.median, alone)

    def _loaded(self, stock: Stock, rate: float, alone_s: float) -> None:
        """Measure latencies while jobs arrive at this rate."""
        runs, pauses = [], []
        for number in range(self.repeats):
            asked = stock.take()
            before = _begin(self.trial.engine)
            runs.append(self.trial.run(asked, len(asked), poisson(len(asked), rate, seed=number)))
            pauses += [after.longest_pass_s] if before and (after := _stats(self.trial.engine)) else []
        at = f"{self.name}, at {_W2_LOAD:.0%} of that"
        p50, p95 = ([run.percentile(part) for run in runs] for part in (50, 95))
        self.report.add(Figure(f"{at}: p50", "s", p50, "less"))
        self.report.add(Figure(f"{at}: p95", "s", p95, "less", *self.limits(targets.W2_P95)))
        over = [each / alone_s for each in p95]
        self.report.add(Figure(f"{at}: p95 over the p50 of one alone", "", over, "less", aim=2))
        self._pauses(at, pauses)

    def _pauses(self, name: str, seconds: Sequence[float]) -> None:
        """Report the longest pass of each run, for which running answers waited."""
        if seconds:
            what = f"{name}: longest pause of those who decode"
            self.report.add(Figure(what, "s", seconds, "less", *self.limits(targets.PAUSE)))

    def all_at_once(self, asked: Sequence[Question], name: str = "") -> tuple[TrialRun, Computed | None]:
        """Ask all questions at once; return how long they took, and what was computed if the engine counts it."""
        before = _begin(self.trial.engine)
        run = self.trial.run(asked, len(asked))
        self.report.say(f"{name or self.name}: {len(asked)} jobs in {run.seconds:.2f} s, {run.rate:.2f} jobs/s")
        after = _stats(self.trial.engine)
        return run, Computed.between(before, after) if before and after else None

    def limits(self, wanted: Wanted) -> Wanted:
        """Return floor and aim, if they apply to this run."""
        return wanted if self.wanted else NOTHING

    def _notes(self, measured: tuple[TrialRun, Computed | None]) -> dict[str, object]:
        run, computed = measured
        notes: dict[str, object] = {"jobs": len(run.latencies_s), "tokens_per_s": round(run.tokens / run.seconds)}
        if computed and computed.steps:
            notes |= {"steps": computed.steps, "step_ms": round(1000 * computed.step_s / computed.steps, 2)}
        if torch.cuda.is_available():
            notes["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
        return notes

    def _step_ms(self, engine: Engine, counter: HasStats, asked: Sequence[Question]) -> float:
        """Return the mean time of _STEPS consecutive steps over all rows."""
        prompts = [self.trial.prompt(question) for question in asked]
        futures = [engine.submit(prompt) for prompt in prompts]
        end = time.monotonic() + _WAIT_S
        full: Computed | None = None
        first = counter.stats()
        try:
            while full is None or full.steps < _STEPS:
                if time.monotonic() > end or any(future.done() for future in futures):
                    raise TimeoutError(f"{len(prompts)} rows were not in their slots for {_STEPS} steps")
                time.sleep(0.002)
                now = Computed.between(first, counter.stats())
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
class Computed:
    """What an engine computed between two readings of its stats."""

    steps: int
    step_tokens: int
    step_s: float
    #: of passes with chunks of prompts, the decoding rows in them included
    prefill_s: float
    #: of prompts: computed, and found in the cache
    prompt_tokens: int
    cached_tokens: int
    #: of those in which sequences decode
    longest_pass_s: float

    @classmethod
    def between(cls, before: Stats, after: Stats) -> Computed:
        return cls(
            after.steps - before.steps,
            after.step_tokens - before.step_tokens,
            after.step_s - before.step_s,
            (after.pass_s - after.step_s) - (before.pass_s - before.step_s),
            after.prompt_tokens - before.prompt_tokens,
            after.cached_tokens - before.cached_tokens,
            after.longest_pass_s,
        )

    @property
    def rows(self) -> float:
        """Mean rows of a step."""
        return self.step_tokens / self.steps

    @property
    def cached_share(self) -> float:
        """Share of the prompts' tokens that were in the cache."""
        return self.cached_tokens / max(1, self.cached_tokens + self.prompt_tokens)


def _begin(engine: Engine) -> Stats | None:
    """Return the stats before a run whose longest pass is measured."""
    if isinstance(engine, HasStats):
        engine.forget_longest_pass()
    return _stats(engine)


def _stats(engine: Engine) -> Stats | None:
    return engine.stats() if isinstance(engine, HasStats) else None
