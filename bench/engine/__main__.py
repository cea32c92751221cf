"""`python -m bench.engine`: measures the engines on Qwen3-VL-30B-A3B's shape, and transformers' `generate` beside them.

W1: different JPEG images of 1024 x 768, 26 tokens of text, answers of 64 tokens, submitted all at once. W2: images of
320 x 240 to 4000 x 3000, answers of 8 to 256 tokens, at random arrival times. W3: 32 images of 1024 x 768 with 16
questions each, answers of 16 tokens, all at once. W4: products with an image and a title each, a system prompt of 600
tokens that all share, answers in JSON. The time includes decoding and processing the images. The worst of the repeats
counts. `off` is the same engine without its prefix cache, `fp8` with weights in float8.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from bench.engine import shape30b
from bench.engine.celery_rate import cards_for
from bench.engine.engines import Once
from bench.engine.report import Report
from bench.engine.shared import Shared
from bench.engine.suite import DEFAULT_PARTS, PARTS, SLOT_TOKENS, Suite
from bench.engine.work import W3_IMAGES, ManyQuestions, Products, Size, Stock
from workers.cards import requested_cards
from workers.engine.settings import EngineSettings
from workers.slots import plan_slots

_SMALL = Size(image=1 / 8, tokens=1 / 8)
#: jobs of W4, as a part of W1's
_W4_SHARE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a figure is below its floor."""
    options = _parser().parse_args(arguments)
    if "cards" in options.only:
        cards_for(options.cards)
    options.size = Size() if options.scale == "30b" else _SMALL
    with tempfile.TemporaryDirectory() as folder:
        model = shape30b.write_folder(Path(folder) / f"random-{options.scale}", options.scale)
        settings = EngineSettings(model=str(model), slot_tokens=SLOT_TOKENS)
        options.slots = options.slots or _planned(settings, options)
        report = Report(options.out, _about(options))
        report.say("drawing images")
        stock = Stock.w1(options.jobs, options.size)
        shared = Shared(
            ManyQuestions(min(W3_IMAGES, options.jobs), options.size),
            Products(max(1, options.jobs // _W4_SHARE), options.size),
        )
        Suite(options, report, settings, Once(shape30b.load), stock, shared).run()
    return 0 if report.close() else 1


def _planned(settings: EngineSettings, options: argparse.Namespace) -> int:
    """Return the slots that a worker would have. Nothing may be on the card yet."""
    return plan_slots(settings.model_copy(update={"engine": options.engine}), requested_cards("")[0]).slots


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
        "--only", type=_parts, default=DEFAULT_PARTS, help=f"of {','.join(PARTS)} (default: {','.join(DEFAULT_PARTS)})"
    )
    parser.add_argument("--jobs", type=int, default=512, help="of W1 (default: %(default)s)")
    parser.add_argument("--slots", type=int, help="(default: those that a worker on this machine plans)")
    parser.add_argument("--repeats", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument(
        "--routing", type=_routings, default=("spread",), help="plain, spread, or both (default: spread)"
    )
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
