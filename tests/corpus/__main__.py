"""`python -m tests.corpus --images 5000 --seed 7`: bad files through a pool; prints a table, keeps files that fail."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.corpus.judge import Verdict
from tests.corpus.memory import mib
from tests.corpus.processes import verdicts
from tests.corpus.registry import make, makers, names

#: rows of the lists of extremes
_SHOWN = 8


def report(found: Sequence[Verdict], console: Console) -> None:
    outcomes = Counter((verdict.name.partition("-")[0], verdict.outcome) for verdict in found)
    table = Table("format", "files", *(kinds := sorted({outcome for _, outcome in outcomes})))
    for format in sorted({format for format, _ in outcomes}):
        counts = [outcomes[format, kind] for kind in kinds]
        table.add_row(format, str(sum(counts)), *map(str, counts))
    table.add_row("all", str(len(found)), *(str(sum(v.outcome == kind for v in found)) for kind in kinds))
    console.print(table)
    extremes = Table("extreme", "figure", "file")
    for verdict in sorted(found, key=lambda one: -one.use.cpu_s)[:_SHOWN]:
        extremes.add_row("processor time", f"{verdict.use.cpu_s:.2f} s", verdict.name)
    for verdict in sorted(found, key=lambda one: -one.header_s)[:_SHOWN]:
        extremes.add_row("header check", f"{verdict.header_s * 1000:.0f} ms", verdict.name)
    for verdict in sorted(found, key=lambda one: -one.use.child_bytes)[:_SHOWN]:
        extremes.add_row("decoder's memory", mib(verdict.use.child_bytes), verdict.name)
    for verdict in sorted(found, key=lambda one: -one.use.own_bytes)[:_SHOWN]:
        extremes.add_row("parent's memory", mib(verdict.use.own_bytes), verdict.name)
    console.print(extremes)


def main() -> int:
    """Judge the files; 1 if one of them ends otherwise than it should."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__)
    parser.add_argument("--images", type=int, help="number of files (default: each maker once)")
    parser.add_argument("--seed", type=int, default=0, help="repeats a run")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", default="", metavar="NAME", help="only files whose name contains this")
    parser.add_argument("--keep", type=Path, default=Path("corpus-failures"), help="folder for files that fail")
    given = parser.parse_args()
    chosen = [name for name in names(given.images) if given.only in name]
    console = Console(width=None if sys.stdout.isatty() else 140)
    found = []
    for verdict in verdicts(given.seed, chosen, given.processes):
        found.append(verdict)
        if verdict.faults:
            given.keep.mkdir(parents=True, exist_ok=True)
            kept = given.keep / f"{given.seed}-{verdict.name.replace('/', '-')}"
            kept.write_bytes(make(given.seed, verdict.name).data)
            console.print(f"{verdict.name}, seed {given.seed}, kept as {kept}: {'; '.join(verdict.faults)}")
    report(found, console)
    faulty = sum(bool(verdict.faults) for verdict in found)
    cpu_s = sum(verdict.use.cpu_s for verdict in found)
    console.print(
        f"{len(found)} files by {len(makers())} makers, seed {given.seed}, {cpu_s:,.0f} s of processor time: "
        f"{faulty} ended as none may"
    )
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
