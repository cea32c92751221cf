"""`make bench`: every benchmark that runs on any machine, as one table; `python -m bench queue` runs one of them."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version

from rich.console import Console
from rich.table import Table

from bench.figures import Row

#: the module of each, whose `rows` measures; imported when it is run
BENCHMARKS = {
    "queue": "bench.queue.rate",
    "ledger": "bench.queue.ledger",
    "inbox": "bench.queue.inbox",
    "remote": "bench.remote",
    "streaming": "bench.queue.streaming",
    "replicas": "bench.queue.replicas",
    "lanes": "bench.queue.lanes",
    "engine": "bench.engine_share",
    "media": "bench.media.decoding",
    "bulk": "bench.queue.bulk",
    "gateway": "bench.gateway.run",
    "filter": "bench.filter",
    "prediction": "bench.queue.prediction",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named benchmarks, all without a name; 1 when a figure falls short."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure, each figure with its rival.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)} (default: all of them)")
    names = parser.parse_args(arguments).names
    if unknown := set(names) - BENCHMARKS.keys():
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    console = Console(width=None if sys.stdout.isatty() else 160)
    versions = ", ".join(f"{name} {version(name)}" for name in ("celery", "redis", "torch", "transformers"))
    console.print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, Python {platform.python_version()}, {versions}")
    table = Table("what", "figure: median (least to most)", "against", "wanted", "")
    rows: list[Row] = [row for name in names or BENCHMARKS for row in import_module(BENCHMARKS[name]).rows()]
    for row in rows:
        table.add_row(row.what, row.figure, row.against, row.wanted, "reached" if row.reached else "SHORT")
    console.print(table)
    return 0 if all(row.reached for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
