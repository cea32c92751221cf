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
from workers.engine.model.generation_config import (
    _NEUTRAL,
    GreedyRules,
    SamplingDefaults,
    Suppressed,
    greedy_rules,
    processed_fields,
    sampling_defaults,
)
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
                    heeded = greedy_rules({name: value}) != GreedyRules()
                    assert [field.partition("=")[0] for field in fields] == ([] if heeded else [name])
                    given(copy, **{name: None})
                    break

    assert found == set(_NEUTRAL)


@pytest.mark.parametrize(
    ("name", "value"),
    [("no_repeat_ngram_size", 3), ("bad_words_ids", [[7], [8, 9]]), ("min_new_tokens", 2), ("forced_eos_token_id", 2)],
)
def test_a_checkpoint_that_generate_alone_heeds_gets_the_engine_that_calls_it(
    copy: Path, name: str, value: Any
) -> None:
    settings, reason = choose_engine(given(copy, **{name: value}), 0)

    assert settings.engine == "pipeline"
    assert f"generation_config.json has {name}={value}" in reason
    with pytest.raises(NotReady, match=f"VQA_ENGINE=continuous: .*{name}"):
        choose_engine(EngineSettings(model=str(copy), engine="continuous"), 0)


@pytest.mark.parametrize(
    ("fields", "rules"),
    [
        ({"repetition_penalty": 1.05}, GreedyRules(1.05)),
        ({"suppress_tokens": [7, 8]}, GreedyRules(suppressed=Suppressed((7, 8)))),
        ({"begin_suppress_tokens": [9]}, GreedyRules(suppressed=Suppressed(first=(9,)))),
        # as transformers, which lets a text always end
        ({"bad_words_ids": [[7], [2]], "eos_token_id": [2, 0]}, GreedyRules(suppressed=Suppressed((7,)))),
        ({"suppress_tokens": None, "bad_words_ids": [[7, 8]]}, GreedyRules()),
    ],
    ids=["repetition", "suppressed", "suppressed-first", "bad-words", "nothing"],
)
def test_simple_rules_keep_the_continuous_engine_which_heeds_them(fields: dict[str, Any], rules: GreedyRules) -> None:
    assert greedy_rules(fields) == rules


def test_jobs_that_do_not_say_it_are_sampled_as_the_checkpoint_advises_only_if_asked_for(copy: Path) -> None:
    # as Qwen3-VL is released
    given(copy, do_sample=True, temperature=0.7, top_p=0.8, top_k=20)

    asked = EngineSettings(model=str(copy), sampling_defaults="checkpoint")

    assert sampling_defaults(asked) == SamplingDefaults(0.7, 0.8, 20)
    assert sampling_defaults(EngineSettings(model=str(copy))) == SamplingDefaults()
    for greedy in ({"do_sample": False}, {"do_sample": True, "temperature": 0.000001}):
        given(copy, **greedy)
        assert sampling_defaults(asked) == SamplingDefaults()
    assert str(sampling_defaults(asked)) == "greedily"


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", 5), ("temperature", -1), ("top_p", "0.9"), ("top_k", -3), ("min_p", True)],
    ids=["hot", "cold", "text", "negative", "flag"],
)
def test_advice_that_cannot_be_followed_stops_the_worker(copy: Path, field: str, value: Any) -> None:
    given(copy, do_sample=True, **{field: value})

    with pytest.raises(NotReady, match=f"VQA_SAMPLING_DEFAULTS=checkpoint: {field}="):
        sampling_defaults(EngineSettings(model=str(copy), sampling_defaults="checkpoint"))


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
    (copy / "config.json").write_text(json.dumps(config | {"no_repeat_ngram_size": 3}))

    assert "no_repeat_ngram_size=3" in choose_engine(settings, 0)[1]


def test_a_file_that_is_not_json_is_told_by_name(copy: Path) -> None:
    (copy / "generation_config.json").write_text("{")

    with pytest.raises(NotReady, match=r"generation_config.json of .* is not JSON"):
        choose_engine(EngineSettings(model=str(copy)), 0)
