"""The example images are answered as they say, and what is said is true."""

import json
from pathlib import Path

import pytest
from PIL import Image

from examples.draw import COUNT, SEED
from training.evaluate import Checkpoint
from training.questions import held_out

ROOT = Path(__file__).parents[2]
ROWS = [json.loads(line) for line in (ROOT / "examples/questions.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint(ROOT / "models/tiny-vl")


def opened(row: dict[str, str]) -> Image.Image:
    return Image.open(ROOT / "examples" / row["image"])


@pytest.mark.parametrize("row", [row for row in ROWS if "expected" in row], ids=lambda row: row["id"])
def test_a_drawn_example_is_answered_as_expected(checkpoint: Checkpoint, row: dict[str, str]) -> None:
    assert checkpoint.answer(opened(row), row["question"]) == row["expected"]


@pytest.mark.parametrize("row", [row for row in ROWS if "expected" not in row], ids=lambda row: row["id"])
def test_a_photograph_gets_some_answer_that_ends(checkpoint: Checkpoint, row: dict[str, str]) -> None:
    answer = checkpoint.answer(opened(row), row["question"])
    assert answer
    assert not answer.endswith("...")


def test_the_rows_are_what_the_generator_draws() -> None:
    drawn = [(row["question"], row["expected"]) for row in ROWS if "expected" in row]
    assert drawn == [(item.question, item.answer) for item in held_out(COUNT, SEED)]


def test_files_of_four_formats_are_there() -> None:
    formats = set()
    for row in ROWS:
        with opened(row) as image:
            formats.add(image.format)
    assert formats == {"PNG", "JPEG", "WEBP", "TIFF"}
