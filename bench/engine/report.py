"""Reports figures while they are measured: a line of JSON for each, progress lines, and a table at the end."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One quantity, measured several times."""

    what: str
    unit: str
    runs: Sequence[float]
    better: Literal["more", "less"] = "more"
    #: the required and the desired value; None if the figure is only reported
    floor: float | None = None
    aim: float | None = None
    #: about the run, the machine and the settings
    notes: Mapping[str, object] = field(default_factory=dict)

    @property
    def worst(self) -> float:
        """The worst run, which is compared with floor and aim."""
        return min(self.runs) if self.better == "more" else max(self.runs)

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    @property
    def verdict(self) -> str:
        """`aim reached`, `floor reached`, SHORT, or '' if there is no floor."""
        for wanted, verdict in ((self.aim, "aim reached"), (self.floor, "floor reached")):
            if wanted is not None and (self.worst >= wanted if self.better == "more" else self.worst <= wanted):
                return verdict
        return "" if self.floor is None else "SHORT"


class Report:
    """Collects figures; `notes` are written with each of them."""

    def __init__(self, out: Path | None, notes: Mapping[str, object]) -> None:
        self._out = out
        self._notes = notes
        self._started = time.monotonic()
        self.figures: list[Figure] = []

    def say(self, what: str) -> None:
        """Print a line with the time."""
        print(f"{time.strftime('%H:%M:%S')} {time.monotonic() - self._started:6.1f} s  {what}", flush=True)

    def add(self, figure: Figure) -> None:
        """Print the figure and append it to the file."""
        self.figures.append(figure)
        runs = ", ".join(f"{run:.4g}" for run in figure.runs)
        self.say(f"{figure.what}: {runs} {figure.unit}" + (f"  {dict(figure.notes)}" if figure.notes else ""))
        if self._out is not None:
            line = asdict(figure) | {"worst": figure.worst, "median": figure.median, "run": dict(self._notes)}
            with self._out.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def table(self) -> Table:
        table = Table("figure", "worst", "median", "unit", "runs", "floor", "aim", "")
        for figure in self.figures:
            wanted = ["" if value is None else f"{value:g}" for value in (figure.floor, figure.aim)]
            measured = [f"{value:.4g}" for value in (figure.worst, figure.median)]
            table.add_row(figure.what, *measured, figure.unit, str(len(figure.runs)), *wanted, figure.verdict)
        return table

    def close(self) -> bool:
        """Print the table; return whether no figure fell short."""
        console = Console(width=160)
        console.print(", ".join(f"{name} {value}" for name, value in self._notes.items()))
        console.print(self.table())
        return not any(figure.verdict == "SHORT" for figure in self.figures)
