from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from vqa.errors import NotReady
from workers.engine.factory import choose_engine
from workers.engine.model.footprint import read_config
from workers.engine.model.generation_config import _NEUTRAL, processed_fields
from workers.engine.model.loading import load
from workers.engine.settings import EngineSettings

#: one of these is an effective value of every field that generate makes a logits processor of
_VALUES = (0.5, 7, True, [5], [[5]], (1, 1.5), [[[5], -1.0]], {"greenlist_ratio": 0.5})


@pytest.fixture
def copy(dense_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(dense_model, tmp_path / "model")


def given(model: Path, **fields: Any) -> EngineSettings:
    file = model / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return EngineSettings(model=str(model))


def processors(model: Any, **fields: Any) -> Iterator[str]:
    """What transformers makes of the fields where nothing is sampled."""
    config = GenerationConfig(eos_token_id=[2], pad_token_id=0, max_length=50, **fields)
    model._prepare_special_tokens(config)
    made = model._get_logits_processor(config, 4, encoder_input_ids=torch.ones(1, 4, dtype=torch.int64), device="cpu")
    return (type(each).__name__ for each in made)


def test_every_field_of_which_transformers_makes_a_processor_is_known(copy: Path) -> None:
    model: Any = load(EngineSettings(model=str(copy))).model
    config = read_config(EngineSettings(model=str(copy)))
    # normalizing logits changes no choice; the second is deprecated and about batches
    others = {"renormalize_logits", "continuous_batching_config", "eos_token_id", "pad_token_id", "max_length"}
    found = set()
    for name in vars(GenerationConfig()).keys() - others:
        for value in _VALUES:
            with suppress(ValueError, TypeError, KeyError, AttributeError, IndexError):
                if list(processors(model, **{name: value})):
                    found.add(name)
                    fields = processed_fields(given(copy, **{name: value}), config)
                    assert [field.partition("=")[0] for field in fields] == [name]
                    given(copy, **{name: None})
                    break

    assert found == set(_NEUTRAL)


@pytest.mark.parametrize(
    ("name", "value"),
    [("repetition_penalty", 1.05), ("no_repeat_ngram_size", 3), ("suppress_tokens", [7]), ("min_new_tokens", 2)],
)
def test_a_checkpoint_that_generate_alone_heeds_gets_the_engine_that_calls_it(
    copy: Path, name: str, value: Any
) -> None:
    settings, reason = choose_engine(given(copy, **{name: value}), 0)

    assert settings.engine == "pipeline"
    assert f"generation_config.json has {name}={value}" in reason
    with pytest.raises(NotReady, match=f"VQA_ENGINE=continuous: .*{name}"):
        choose_engine(EngineSettings(model=str(copy), engine="continuous"), 0)


def test_what_changes_nothing_and_what_a_job_says_itself_keeps_the_continuous_engine(copy: Path) -> None:
    # as Qwen3-VL is released
    sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
    neutral = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0, "suppress_tokens": None}

    assert choose_engine(given(copy, **sampling, **neutral), 0)[0].engine == "continuous"


def test_without_the_file_the_models_config_is_looked_at_as_transformers_does(copy: Path) -> None:
    (copy / "generation_config.json").unlink()
    settings = EngineSettings(model=str(copy))
    assert choose_engine(settings, 0)[0].engine == "continuous"

    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"repetition_penalty": 1.3}))

    assert "repetition_penalty=1.3" in choose_engine(settings, 0)[1]


def test_a_file_that_is_not_json_is_told_by_name(copy: Path) -> None:
    (copy / "generation_config.json").write_text("{")

    with pytest.raises(NotReady, match=r"generation_config.json of .* is not JSON"):
        choose_engine(EngineSettings(model=str(copy)), 0)
