"""`make bench`: every benchmark that runs on any machine, as one table; `python -m bench queue` runs one of them."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from rich.console import Console
from rich.table import Table

from bench.figures import Row


def _queue() -> list[Row]:
    from bench import queue_rate

    return queue_rate.rows()


def _ledger() -> list[Row]:
    from bench import ledger

    return ledger.rows()


def _inbox() -> list[Row]:
    from bench import inbox

    return inbox.rows()


def _streaming() -> list[Row]:
    from bench import streaming

    return streaming.rows()


def _replicas() -> list[Row]:
    from bench import replicas

    return replicas.rows()


def _lanes() -> list[Row]:
    from bench import lanes

    return lanes.rows()


def _engine() -> list[Row]:
    from bench import engine_share

    return engine_share.rows()


def _media() -> list[Row]:
    from bench import media

    return media.rows()


def _gateway() -> list[Row]:
    from bench.gateway import run

    return run.rows()


def _bulk() -> list[Row]:
    from bench import bulk

    return bulk.rows()


def _filter() -> list[Row]:
    from bench import filter

    return filter.rows()


BENCHMARKS: dict[str, Callable[[], list[Row]]] = {
    "queue": _queue,
    "ledger": _ledger,
    "inbox": _inbox,
    "streaming": _streaming,
    "replicas": _replicas,
    "lanes": _lanes,
    "engine": _engine,
    "media": _media,
    "bulk": _bulk,
    "gateway": _gateway,
    "filter": _filter,
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
    rows = [row for name in names or BENCHMARKS for row in BENCHMARKS[name]()]
    for row in rows:
        table.add_row(row.what, row.figure, row.against, row.wanted, "reached" if row.reached else "SHORT")
    console.print(table)
    return 0 if all(row.reached for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
