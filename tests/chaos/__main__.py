"""`python -m tests.chaos`: producers, Redis and workers under fire; `--short` takes three minutes.

`python -m tests.chaos recovery | sigkills | renewer | memory | model` takes one figure.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from tests.chaos import campaign, model, report
from tests.chaos.catalog import WEIGHTS
from tests.chaos.figures import last_line
from tests.chaos.plan import Plan
from tests.chaos.verdict import judge

#: what each figure is taken by
FIGURES = {
    "recovery": "many_kills",
    "sigkills": "sigkills",
    "renewer": "renewer",
    "memory": "memory",
    "model": "model",
}


def main(arguments: list[str]) -> int:
    """1 where a promise did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("figure", nargs="?", choices=FIGURES)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--faults", type=int)
    parser.add_argument("--minutes", type=float)
    names = [fault.__name__ for fault in WEIGHTS]
    parser.add_argument("--only", nargs="+", choices=names, default=(), help="these faults alone")
    parser.add_argument("--folder", type=Path, help="logs and records, kept; else removed after a run without fault")
    options = parser.parse_args(arguments)
    if options.figure:
        return int(import_module(f"tests.chaos.{FIGURES[options.figure]}").main())
    numbers = options.seed, options.jobs, options.faults, options.minutes
    plan = replace((Plan.brief if options.short else Plan.full)(*numbers), only=tuple(options.only))
    # two workers with a real model, before the three without
    wrong = 0 if options.short or options.only else model.main(seed=options.seed)
    return run(plan, options.folder) or wrong


def run(plan: Plan, kept: Path | None = None) -> int:
    """One run, and what is said of it; 1 where a promise did not hold."""
    folder = kept or Path(tempfile.mkdtemp(prefix="vqa-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"chaos: seed {plan.seed}, {plan.jobs} jobs, {plan.faults} faults; logs in {folder}", flush=True)
    try:
        evidence = campaign.run(plan, folder)
    except KeyboardInterrupt:
        print(f"chaos: interrupted; seed {plan.seed}, logs in {folder}")
        return 130
    except Exception:
        print(f"chaos: seed {plan.seed} could not be run to its end; logs in {folder}", flush=True)
        raise
    complaints = judge(evidence)
    for line in report.lines(evidence, complaints, folder):
        print(line)
    print(last_line(evidence, complaints), flush=True)
    if not complaints and kept is None:
        shutil.rmtree(folder)
    return 1 if complaints else 0


if __name__ == "__main__":
    # as for Ctrl-C: everything that was started is ended on the way out
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
