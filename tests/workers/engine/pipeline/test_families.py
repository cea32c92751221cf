"""Which families of models start and answer without torchvision; docs/models.md says so, and is compared with it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

from tests.workers.engine.conftest import Starting, answers, ask, image
from tests.workers.engine.pipeline.families.family import BUNDLED, Family, build
from tests.workers.engine.pipeline.families.table import FAMILIES, REFUSED
from vqa.errors import NotReady
from workers.engine.factory import choose_engine
from workers.engine.model.loading import load
from workers.engine.model.processor import load_processor
from workers.engine.settings import EngineSettings

ROOT = Path(__file__).parents[4]
_TOKENS = 6

#: of the rows of the table in docs/models.md, by their first column
Row = tuple[str, ...]


def rows(title: str) -> dict[str, Row]:
    """The rows of the table under a heading of docs/models.md."""
    section = (ROOT / "docs/models.md").read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| ")]
    return {first.strip(): tuple(cell.strip() for cell in rest) for first, *rest in lines[2:]}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[str, Family]:
    found = FAMILIES[request.param]
    if not found.is_supported:
        pytest.skip(f"needs transformers {found.since}")
    return request.param, found


def by_hand(folder: Path, numbers: Sequence[int]) -> list[str]:
    """The answers of `generate` to the prompts `ask(number)`, one by one, from transformers' own model."""
    processor = load_processor(EngineSettings(model=str(folder)), AutoConfig.from_pretrained(folder), {})
    model: Any = AutoModelForImageTextToText.from_pretrained(folder).eval()
    return [_generated(model, processor, number) for number in numbers]


def _generated(model: Any, processor: Any, number: int) -> str:
    shown = {"type": "image", "image": image(number).pil}
    asked = {"type": "text", "text": ask(number).turns[0].parts[1]}
    how = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    inputs = processor.apply_chat_template([{"role": "user", "content": [shown, asked]}], **how)
    with torch.inference_mode():
        made = model.generate(**inputs, max_new_tokens=_TOKENS, do_sample=False)
    return str(processor.tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


# of transformers' own processors and models
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_it_answers_in_a_microbatch_as_generate_does_alone(
    family: tuple[str, Family], starting: Starting, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, about = family
    caplog.set_level("INFO", "workers.engine.model.image_sizes")
    folder = build(about, tmp_path)
    settings, _ = choose_engine(EngineSettings(model=str(folder)), cards=0)
    engine = starting(model=str(folder), engine=settings.engine)

    texts = [each.text for each in answers(engine, [ask(number, max_new_tokens=_TOKENS) for number in range(3)])]

    assert texts == by_hand(folder, range(3))
    assert len(set(texts)) == 3
    assert "torchvision" not in sys.modules
    _, ran, sizes, videos, _ = rows("Families")[name]
    assert ran == settings.engine
    assert sizes == _sizes(caplog.text)
    assert videos == ("yes" if engine.video_fit else "no")


def _sizes(logged: str) -> str:
    if "with detail low" in logged:
        return "`detail`"
    return "`VQA_MAX_IMAGE_TOKENS`" if "images are seen at up to" in logged else "its own"


@pytest.mark.parametrize("name", REFUSED)
def test_one_whose_images_need_torchvision_says_what_to_install(name: str, tmp_path: Path) -> None:
    if not hasattr(transformers, f"{REFUSED[name]}Config"):
        pytest.skip("this transformers does not have it")
    getattr(transformers, f"{REFUSED[name]}Config")().save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(BUNDLED).save_pretrained(tmp_path)
    names = {
        "image_processor_type": f"{REFUSED[name]}ImageProcessorFast",
        "processor_class": f"{REFUSED[name]}Processor",
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(names))

    with pytest.raises(NotReady, match=r"install the torchvision built for torch 2\.") as refused:
        load(EngineSettings(model=str(tmp_path)))

    assert "\n" not in str(refused.value)


def test_the_page_lists_these_families_and_no_others() -> None:
    assert {*rows("Families")} == {"Qwen3-VL", "Qwen3-VL-MoE", *FAMILIES}
    assert {*rows("Refused")} == {*REFUSED}


@pytest.mark.parametrize(("name", "model"), [("Qwen3-VL", "dense_model"), ("Qwen3-VL-MoE", "expert_model")])
def test_the_continuous_engines_models_are_in_the_table_too(
    name: str, model: str, request: pytest.FixtureRequest
) -> None:
    settings, _ = choose_engine(EngineSettings(model=str(request.getfixturevalue(model))), cards=0)

    assert rows("Families")[name][1:2] == (settings.engine,)


def test_the_readme_names_families_that_answer() -> None:
    row = next(line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| other models: "))
    named = re.split(r", (?:\.\.\.)?", row.removeprefix("| other models: ").split(" | ")[0])

    assert {name for name in named if name} <= {*FAMILIES}
