"""`python -m tests.chaos`: faults hit producers, Redis and workers under load; `--short` takes three minutes.

`python -m tests.chaos recovery | sigkills | renewer | memory | model | failover | gateway` measures one figure instead.
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

#: the module that measures each figure
FIGURES = {
    "recovery": "many_kills",
    "sigkills": "sigkills",
    "renewer": "renewer",
    "memory": "memory",
    "model": "model",
    "failover": "failover",
    "gateway": "gateway",
}


def main(arguments: list[str]) -> int:
    """Run; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("figure", nargs="?", choices=FIGURES)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--faults", type=int)
    parser.add_argument("--minutes", type=float)
    names = [fault.__name__ for fault in WEIGHTS]
    parser.add_argument("--only", nargs="+", choices=names, default=(), help="only these faults")
    parser.add_argument("--folder", type=Path, help="keep logs and records here, also after a good run")
    options = parser.parse_args(arguments)
    if options.figure:
        return int(import_module(f"tests.chaos.{FIGURES[options.figure]}").main())
    numbers = options.seed, options.jobs, options.faults, options.minutes
    plan = replace((Plan.short_run if options.short else Plan.full_run)(*numbers), only=tuple(options.only))
    # first two workers with a real model, then the three with the echo engine
    wrong = 0 if options.short or options.only else model.main(seed=options.seed)
    return run(plan, options.folder) or wrong


def run(plan: Plan, kept: Path | None = None) -> int:
    """Run one plan and print the verdict; return 1 if a promise was broken."""
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
    violations = judge(evidence)
    for line in report.lines(evidence, violations, folder):
        print(line)
    print(last_line(evidence, violations), flush=True)
    if not violations and kept is None:
        shutil.rmtree(folder)
    return 1 if violations else 0


if __name__ == "__main__":
    # as for Ctrl-C, so that every process that was started is ended
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
