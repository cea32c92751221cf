"""`vqa submit` and `vqa collect`: a bulk file's jobs onto the queue, and their answers into another file."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from producer.batch import BadLine, Writer, open_lines, read_ids, read_jobs
from producer.client import Client
from producer.stopping import Stopped
from vqa.errors import QueueUnavailable, SettingsError
from vqa.job import Job
from vqa.outcome import Outcome

if TYPE_CHECKING:
    from rich.progress import Progress

#: how a command ends when every line was done and some of them failed
FAILED_ROWS = 3


class Run:
    """One command's way through its lines: writes outcomes, tells bad lines, counts for the bar."""

    def __init__(self, out: TextIO, progress: Progress | None) -> None:
        self.writer = Writer(out)
        self._progress = progress
        self._bar = progress.add_task("answered", total=None) if progress else None

    def write(self, outcomes: Iterable[tuple[str, Outcome]]) -> None:
        """Write outcomes as they come."""
        for id, outcome in outcomes:
            self.writer.write(id, outcome)
            self._advance()

    def good(self, lines: Iterable[Any]) -> Iterator[Any]:
        """The lines that are not bad; those that are, are told and written."""
        for line in lines:
            if isinstance(line, BadLine):
                print(f"vqa: line {line.number}: {type(line.error).__name__}: {line.error}", file=sys.stderr)
                self.writer.write_bad(line)
                self._advance()
            else:
                yield line

    def _advance(self) -> None:
        if self._progress and self._bar is not None:
            self._progress.advance(self._bar)

    def end(self) -> int:
        """Say how it went; the exit status of a command that came to its end."""
        print(f"{self.writer.answered} answered, {self.writer.failed} failed", file=sys.stderr)
        return FAILED_ROWS if self.writer.failed else 0


def submit(file: Path, output: Path | None, in_flight: int, fields: dict[str, Any]) -> int:
    """Submit a file's jobs and write their answers as they finish; the exit status."""
    _refuse_same(output, [str(file)])
    if isinstance(sys.stdin, TextIOWrapper):
        # as in files: what is not UTF-8 is a bad line, not the end of the run
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    with ExitStack() as stack:
        client = stack.enter_context(Client())
        lines = sys.stdin if str(file) == "-" else stack.enter_context(open_lines(file))
        run = stack.enter_context(_run(output))
        folder = Path() if str(file) == "-" else file.parent
        jobs: Iterator[Job] = run.good(read_jobs(lines, folder, client.settings, **fields))
        try:
            run.write(client.ask_many(jobs, in_flight))
        except (Stopped, QueueUnavailable):
            names = "ID..." if str(file) == "-" else shlex.quote(str(file))
            where = f" -o {shlex.quote(str(output))}" if output else ""
            print(f"vqa: what was submitted goes on; for its answers: vqa collect {names}{where}", file=sys.stderr)
            raise
        return run.end()


def collect(names: list[str], output: Path | None, timeout_s: float | None) -> int:
    """Wait for the answers to jobs named by id or by bulk file, and write them; the exit status."""
    _refuse_same(output, names)
    with ExitStack() as stack:
        client = stack.enter_context(Client())
        run = stack.enter_context(_run(output))
        ids = [id for name in names for id in _ids(run, name)]
        run.write(client.answers(ids, timeout_s))
        return run.end()


def _refuse_same(output: Path | None, names: Iterable[str]) -> None:
    for name in names:
        if output and output.exists() and Path(name).exists() and output.samefile(name):
            raise SettingsError(f"{output} is the file of questions; name another one for the answers")


def _ids(run: Run, name: str) -> Iterator[str]:
    path = Path(name)
    if not path.is_file():
        yield name
        return
    with open_lines(path) as lines:
        yield from run.good(read_ids(lines))


@contextmanager
def _run(output: Path | None) -> Iterator[Run]:
    with ExitStack() as stack:
        out = stack.enter_context(output.open("w", encoding="utf-8")) if output else sys.stdout
        progress = None
        # a bar is for people, and only where it does not run through the answers
        if sys.stderr.isatty() and (output or not sys.stdout.isatty()):
            from rich.console import Console
            from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            parts = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
            progress = stack.enter_context(Progress(*parts, console=Console(stderr=True), transient=True))
        yield Run(out, progress)
