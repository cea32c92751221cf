"""Figures as they are measured: a line of JSON each, what is going on meanwhile, and a table at the end."""

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
    """One thing, measured several times."""

    what: str
    unit: str
    runs: Sequence[float]
    better: Literal["more", "less"] = "more"
    #: the least that will do, and what is hoped for; None where it is only told
    floor: float | None = None
    aim: float | None = None
    #: of the run, the machine, the setting
    notes: Mapping[str, object] = field(default_factory=dict)

    @property
    def worst(self) -> float:
        """The run that counts."""
        return min(self.runs) if self.better == "more" else max(self.runs)

    @property
    def median(self) -> float:
        """The middle run."""
        return statistics.median(self.runs)

    @property
    def verdict(self) -> str:
        """Of the worst run."""
        for wanted, verdict in ((self.aim, "aim reached"), (self.floor, "floor reached")):
            if wanted is not None and (self.worst >= wanted if self.better == "more" else self.worst <= wanted):
                return verdict
        return "" if self.floor is None else "SHORT"


class Report:
    """Where figures go; `notes` are written with each of them."""

    def __init__(self, out: Path | None, notes: Mapping[str, object]) -> None:
        self._out = out
        self._notes = notes
        self._began = time.monotonic()
        self.figures: list[Figure] = []

    def say(self, what: str) -> None:
        """With the time, at once."""
        print(f"{time.strftime('%H:%M:%S')} {time.monotonic() - self._began:6.1f} s  {what}", flush=True)

    def add(self, figure: Figure) -> None:
        """Tell it and write it down."""
        self.figures.append(figure)
        runs = ", ".join(f"{run:.4g}" for run in figure.runs)
        self.say(f"{figure.what}: {runs} {figure.unit}" + (f"  {dict(figure.notes)}" if figure.notes else ""))
        if self._out is not None:
            line = asdict(figure) | {"worst": figure.worst, "median": figure.median, "run": dict(self._notes)}
            with self._out.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def table(self) -> Table:
        """All of them."""
        table = Table("figure", "worst", "median", "unit", "runs", "floor", "aim", "")
        for figure in self.figures:
            wanted = ["" if value is None else f"{value:g}" for value in (figure.floor, figure.aim)]
            measured = [f"{value:.4g}" for value in (figure.worst, figure.median)]
            table.add_row(figure.what, *measured, figure.unit, str(len(figure.runs)), *wanted, figure.verdict)
        return table

    def close(self) -> bool:
        """Print the table; whether nothing fell short."""
        console = Console(width=160)
        console.print(", ".join(f"{name} {value}" for name, value in self._notes.items()))
        console.print(self.table())
        return not any(figure.verdict == "SHORT" for figure in self.figures)
