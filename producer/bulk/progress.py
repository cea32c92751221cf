"""A bar for people who wait; nothing where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(among_answers: bool) -> Iterator[Callable[[int, int], None]]:
    """Told how many rows are done, and how many of them failed; shown only where it does not run through answers."""
    if not sys.stderr.isatty() or (among_answers and sys.stdout.isatty()):
        yield lambda done, failed: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    parts = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*parts, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("done", total=None)

        def show(done: int, failed: int) -> None:
            progress.update(task, completed=done, description=f"done, {failed:,} failed" if failed else "done")

        yield show
