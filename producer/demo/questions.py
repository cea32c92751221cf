"""The example questions that ship with a checkout, and how well they were answered, as a table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rich.table import Table
from rich.text import Text

from vqa.answer import Answer
from vqa.errors import SettingsError
from vqa.results import Outcome


@dataclass(frozen=True)
class Example:
    """A question about an image; `expected` is None where there is no one right answer, as for photographs."""

    image: Path
    question: str
    expected: str | None

    @classmethod
    def parse(cls, line: str, folder: Path) -> Self:
        """One line of questions.jsonl; images are named from its folder."""
        row = json.loads(line)
        return cls(folder / row["image"], row["question"], row.get("expected") or None)

    def matches(self, outcome: Outcome) -> bool | None:
        """Whether the answer is the expected one, case and a final full stop aside; None where any would do."""
        if not isinstance(outcome, Answer):
            return False
        return None if self.expected is None else _plain(outcome.text) == _plain(self.expected)


def read_examples(folder: Path) -> list[Example]:
    """What is in `folder`/questions.jsonl. Raises SettingsError where this is no checkout."""
    path = folder / "questions.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}); the demo needs a checkout") from None
    return [Example.parse(line, folder) for line in lines if line.strip()]


def table(answered: list[tuple[Example, Outcome]]) -> Table:
    """A row an example; errors stand in the answer's column."""
    rows = Table(title="Examples", title_justify="left", header_style="bold")
    for heading in ("image", "question", "answer", "expected"):
        rows.add_column(heading, overflow="fold")
    rows.add_column("time", justify="right", no_wrap=True)
    for example, outcome in answered:
        rows.add_row(Text(example.image.name), Text(example.question), _answer(outcome), *_marks(example, outcome))
    return rows


def _answer(outcome: Outcome) -> Text:
    if isinstance(outcome, Answer):
        return Text(outcome.text)
    return Text(f"{type(outcome).__name__}: {outcome}", style="red")


def _marks(example: Example, outcome: Outcome) -> tuple[Text, str]:
    time = f"{outcome.timings.total_s:.2f} s" if isinstance(outcome, Answer) else ""
    match example.matches(outcome):
        case None:
            return Text("any", style="dim"), time
        case True:
            return Text("✓", style="green"), time
    return Text(f"✗ {example.expected or 'an answer'}", style="red"), time


def _plain(text: str) -> str:
    return text.strip().removesuffix(".").casefold()
