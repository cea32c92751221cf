"""`python -m bench.engine`: measures the engines on Qwen3-VL-30B-A3B's shape, and transformers' `generate` beside them.

W1: different JPEG images of 1024 x 768, 26 tokens of text, answers of 64 tokens, submitted all at once. W2: images of
320 x 240 to 4000 x 3000, answers of 8 to 256 tokens, at random arrival times. The time includes decoding and processing
the images. The worst of the repeats counts.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from bench import shape30b
from bench.celery_rate import Fleet, ThroughCelery, cards_for
from bench.direct import Direct
from bench.engines import EngineName, Once, opened, release
from bench.report import Figure, Report
from bench.routing import Routing
from bench.work import Size, Stock
from workers.engine.settings import EngineSettings
from workers.tune.trial import Trial

PARTS = ("rival", "w1", "alone", "step", "guided", "w2", "celery", "cards")
ROWS = (1, 8, 32, 64, 128)
#: jobs to measure transformers' `generate` with, by microbatch size
RIVALS = {1: 4, 32: 64, 64: 128}
#: enough for a prompt of W2 and its answer
SLOT_TOKENS = 2048
SHARE_WANTED = (0.93, 0.98)
CARDS_WANTED = (1.9, 1.98)
_SMALL = Size(image=1 / 8, tokens=1 / 8)


@dataclass(frozen=True)
class Bench:
    """One run of the benchmark."""

    options: argparse.Namespace
    report: Report
    settings: EngineSettings
    model: Once
    w1: Stock

    def run(self) -> None:
        """Measure the selected parts, with the model loaded once."""
        parts, routings = self.options.only, self.options.routing
        if "rival" in parts:
            for microbatch, jobs in RIVALS.items():
                self._rival(routings[-1], microbatch, jobs)
                release()
        called = None
        for routing in routings:
            # parts other than W1 use only the last routing, which is closer to a trained model's
            others = set(parts) - {"w1"} if routing == routings[-1] else set()
            if "w1" in parts or others & {"alone", "step", "guided", "w2", "celery"}:
                called = self._direct(routing, others) or called
                release()
        self.model.forget()
        if {"celery", "cards"} & set(parts):
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
            rate = w1.saturated(self.w1) if {"w1", "guided", "celery"} & set(options.only) else None
            if "alone" in parts:
                w1.alone(self.w1)
            if "step" in parts:
                w1.steps(self.w1, ROWS)
            if "guided" in parts and rate is not None:
                w1.guided(self.w1, rate)
            if "w2" in parts:
                self.report.say("drawing images for W2")
                stock = Stock.w2(max(32, options.jobs // 2), options.size)
                self._measures(trial, f"W2, {routing} routing, {options.engine}").mixed(stock)
        return rate

    def _measures(self, trial: Trial, name: str) -> Direct:
        options = self.options
        wanted = options.scale == "30b" and "spread" in name and name.startswith("W1")
        return Direct(trial, self.report, options.repeats, options.slots, name, wanted)

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
                wanted = SHARE_WANTED if options.scale == "30b" else (None, None)
                self.report.add(Figure(f"{name}, of what it does directly", "", shares, "more", *wanted))
            if "celery" in options.only:
                shares = [rate / one.median for rate in through.streamed_rates(self.w1, options.repeats)]
                self.report.add(Figure(f"{name}, every answer streamed, of the same without", "", shares))
            if "cards" in options.only:
                many = Figure(
                    f"{name}, {options.cards} cards", "jobs/s", through.rates(options.cards, self.w1, options.repeats)
                )
                self.report.add(many)
                ratios = [rate / one.median for rate in many.runs]
                wanted = CARDS_WANTED if options.cards == 2 and options.scale == "30b" else (None, None)
                self.report.add(Figure(f"{name}, {options.cards} cards over one", "", ratios, "more", *wanted))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a figure is below its floor."""
    options = _parser().parse_args(arguments)
    if "cards" in options.only:
        cards_for(options.cards)
    options.size = Size() if options.scale == "30b" else _SMALL
    report = Report(options.out, _about(options))
    with tempfile.TemporaryDirectory() as folder:
        model = shape30b.write_folder(Path(folder) / f"random-{options.scale}", options.scale)
        report.say(f"drawing {options.jobs} images")
        stock = Stock.w1(options.jobs, options.size)
        settings = EngineSettings(model=str(model), slot_tokens=SLOT_TOKENS)
        Bench(options, report, settings, Once(shape30b.load), stock).run()
    return 0 if report.close() else 1


def _about(options: argparse.Namespace) -> dict[str, object]:
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "card": card,
        "cores": os.cpu_count(),
        **{name: version(name) for name in ("torch", "transformers", "celery")},
        "python": platform.python_version(),
        **{name: getattr(options, name) for name in ("scale", "engine", "slots", "jobs")},
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description=__doc__)
    parser.add_argument(
        "--only", type=_parts, default=PARTS[:-1], help=f"of {','.join(PARTS)} (default: all but cards)"
    )
    parser.add_argument("--jobs", type=int, default=512, help="of W1 (default: %(default)s)")
    parser.add_argument("--slots", type=int, default=128, help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--routing", type=_routings, default=("plain", "spread"), help="plain, spread, or both")
    parser.add_argument("--engine", choices=("continuous", "pipeline"), default="continuous")
    parser.add_argument(
        "--scale", choices=("30b", "tiny", "tiny-dense"), default="30b", help="tiny runs without a card"
    )
    parser.add_argument("--cards", type=int, default=2, help="for `cards`: workers against one (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="a file to which each figure is appended as a line of JSON")
    return parser


def _parts(text: str) -> tuple[str, ...]:
    return _some_of(PARTS, text)


def _routings(text: str) -> tuple[str, ...]:
    return _some_of(("plain", "spread"), text)


def _some_of(known: Sequence[str], text: str) -> tuple[str, ...]:
    given = text.split(",")
    if unknown := [part for part in given if part not in known]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
    return tuple(part for part in known if part in given)


if __name__ == "__main__":
    sys.exit(main())
