"""What the demo prints, without starting anything."""

import io
import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from producer import PromptTooLong
from producer.demo.demo import CHECKOUT, Demo
from producer.demo.questions import Example, read_examples, table
from tests.producer.conftest import answer
from vqa.flower_settings import FlowerSettings
from vqa.results import Outcome
from vqa.settings import QueueSettings


@pytest.fixture
def answered() -> list[tuple[Example, Outcome]]:
    examples = read_examples(CHECKOUT / "examples")
    return [(example, answer("q", example.expected or "yes")) for example in examples]


def printed(thing: object, **options: object) -> str:
    console = Console(file=io.StringIO(), width=80, **options)
    console.print(thing)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_fits_80_columns_with_one_line_per_answer(answered: list[tuple[Example, Outcome]]) -> None:
    lines = printed(table(answered)).splitlines()
    assert len(lines) == 2 + 5
    assert all(line.split()[0] == example.image.name for line, (example, _) in zip(lines[2:], answered, strict=False))
    assert all(example.question in line for line, (example, _) in zip(lines[2:], answered, strict=False))


def test_an_answer_that_is_not_as_expected_is_in_the_table(answered: list[tuple[Example, Outcome]]) -> None:
    answered[8] = (answered[8][0], answer("q", "top left"))
    answered[9] = (answered[9][0], PromptTooLong("too long"))
    lines = printed(table(answered)).splitlines()
    assert any(line.startswith("where-09.webp") and "✗ top left" in line for line in lines)
    assert any(line.startswith("yes-no-10.tiff") and "✗ PromptTooLong" in line for line in lines)


def test_no_colour_is_printed_where_none_is_wanted(
    answered: list[tuple[Example, Outcome]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert re.search(r"\x1b\[[0-9;]*3[0-9]", printed(table(answered), force_terminal=True))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", printed(table(answered), force_terminal=True))


def test_its_commands_can_be_copied(answered: list[tuple[Example, Outcome]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CHECKOUT)
    file = io.StringIO()
    settings = QueueSettings(redis_url="redis://:pass-word_1@127.0.0.1:7777/0")
    console = Console(file=file, width=80)
    Demo(console, console)._show_commands(settings, FlowerSettings(password="a long one"), answered[0][0])
    ask, status = [shlex.split(line) for line in file.getvalue().splitlines() if line.startswith("  ")]
    assert ask[0] == status[0] == "VQA_REDIS_URL=redis://:pass-word_1@127.0.0.1:7777/0"
    assert ask[-3:] == ["ask", "examples/images/colour-01.jpg", "which colour is the star?"]
    assert status[-1] == "status"
    assert not Path(ask[1]).is_absolute() or not Path(ask[1]).is_relative_to(CHECKOUT)
    assert "password a long one" in file.getvalue()
