"""The training command's parts run on a machine without a GPU and leave a checkpoint that loads."""

from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText

from training.architecture import Shape
from training.train import run
from training.trainer import Recipe, Trainer

RECIPE = Recipe(images=2, questions=3, processes=0, warm_up=1, max_steps=3, report_every=2, examine=5, compiled=False)
SHAPE = Shape(width=64, text_layers=2, head_width=16, text_inner=64, vision_width=48, vision_layers=2, deepstack=(0,))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run(Trainer(RECIPE, SHAPE), folder, folder / "curve.csv")
    return folder


def test_a_run_leaves_a_checkpoint_that_loads(out: Path) -> None:
    assert AutoModelForImageTextToText.from_pretrained(out).config.text_config.hidden_size == SHAPE.width


def test_a_run_reports_on_its_way_and_at_its_end(out: Path) -> None:
    rows = (out / "curve.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "2", "3"]


def test_a_run_continues_from_a_checkpoint(out: Path) -> None:
    start = Trainer(RECIPE, SHAPE, start=out).model.state_dict()
    saved = AutoModelForImageTextToText.from_pretrained(out).state_dict()
    assert all((value.float() == saved[name].float()).all() for name, value in start.items())
