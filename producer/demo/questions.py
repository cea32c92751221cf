"""The example questions of a checkout, and a table of their answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from vqa.answer import Answer
from vqa.errors import SettingsError
from vqa.results import Outcome

#: answers in the table, one of each kind of question
_SHOWN = 5


@dataclass(frozen=True)
class Example:
    """A question about an image; `expected` is None if the small model cannot answer it, as for photographs."""

    image: Path
    question: str
    expected: str | None

    @classmethod
    def parse(cls, line: str, folder: Path) -> Self:
        """Parse a line of questions.jsonl; image paths are relative to its folder."""
        row = json.loads(line)
        return cls(folder / row["image"], row["question"], row.get("expected") or None)

    def matches(self, outcome: Outcome) -> bool | None:
        """Compare with the expected answer, ignoring case and a final full stop; None if none is expected."""
        if not isinstance(outcome, Answer):
            return False
        return None if self.expected is None else _plain(outcome.text) == _plain(self.expected)


def read_examples(folder: Path) -> list[Example]:
    """Read `folder`/questions.jsonl. Raises SettingsError if it cannot be read."""
    path = folder / "questions.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}); the demo needs a checkout") from None
    return [Example.parse(line, folder) for line in lines if line.strip()]


def table(answered: list[tuple[Example, Outcome]]) -> Table:
    """Show the first answers, and all that are not as expected, in at most 80 columns."""
    rows = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for heading in ("image", "question", "answer"):
        rows.add_column(heading, overflow="fold")
    rows.add_column("time", justify="right", no_wrap=True)
    for number, (example, outcome) in enumerate(answered):
        if number < _SHOWN or example.matches(outcome) is False:
            time = f"{outcome.timings.total_s:.1f} s" if isinstance(outcome, Answer) else ""
            rows.add_row(Text(example.image.name), Text(example.question), _answer(example, outcome), time)
    return rows


def _answer(example: Example, outcome: Outcome) -> Text:
    if not isinstance(outcome, Answer):
        return Text(f"✗ {type(outcome).__name__}: {outcome}", style="red")
    match example.matches(outcome):
        case True:
            return Text(f"✓ {outcome.text}", style="green")
        case None:
            return Text(outcome.text)
    return Text(f"✗ {outcome.text} (expected: {example.expected})", style="red")


def _plain(text: str) -> str:
    return text.strip().removesuffix(".").casefold()
