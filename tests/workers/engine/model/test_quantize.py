"""Models that are really quantized while they are loaded, with experts and without, on the CPU."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker_process import TINY
from tests.workers.engine.conftest import EXPERTS, Starting, answers, ask, ask_about, build_model
from training.questions import held_out
from vqa.errors import NotReady
from workers.engine.model.footprint import read_footprint
from workers.engine.model.loading import load
from workers.engine.model.quant import PACKAGES, is_quantized
from workers.engine.model.quantize import dequantize
from workers.engine.settings import EngineSettings

QUANTS = ("fp8", "int8", "int4")
missing = {quant for quant in QUANTS if find_spec(PACKAGES[quant]) is None}
each_quant = pytest.mark.parametrize(
    "quant",
    [
        pytest.param(quant, marks=pytest.mark.skipif(quant in missing, reason=f"needs {PACKAGES[quant]}"))
        for quant in QUANTS
    ],
)


@pytest.fixture(scope="session")
def wide_experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Experts whose rows are whole blocks of int4, as those of released models are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXPERTS, "moe_intermediate_size", 64)
        return build_model(tmp_path_factory.mktemp("wide"), experts=True)


@pytest.fixture(params=["dense", "experts"])
def model(request: pytest.FixtureRequest, dense_model: Path, wide_experts: Path) -> Path:
    return {"dense": dense_model, "experts": wide_experts}[request.param]


def loaded(model: Path, **settings: Any) -> Any:
    return load(EngineSettings(model=str(model), **settings)).model


def parts(weight: Any) -> Iterator[torch.Tensor]:
    """The tensors that a weight is kept as."""
    if hasattr(weight, "qdata"):
        yield from (getattr(weight, name) for name in ("qdata", "scale", "zero_point") if hasattr(weight, name))
    else:
        yield weight.data
        if (state := getattr(weight, "quant_state", None)) is not None:
            yield state.absmax


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(8, 40)[None]
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()


@each_quant
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loaded_model_is_as_large_as_was_planned(model: Path, quant: Any, dtype: Any) -> None:
    weights = loaded(model, quant=quant, dtype=dtype).named_parameters()

    size = sum(part.nbytes for _, weight in weights for part in parts(weight))

    planned = read_footprint(EngineSettings(model=str(model), quant=quant, dtype=dtype), on_card=False)
    assert size == planned.weights_bytes
    assert size < read_footprint(EngineSettings(model=str(model), dtype=dtype), on_card=False).weights_bytes


@each_quant
def test_it_computes_what_its_weights_say(model: Path, quant: Any) -> None:
    """A plain model, given the quantized one's weights unpacked, says the same."""
    plain, quantized = loaded(model), loaded(model, quant=quant)
    targets = dict(plain.named_parameters())
    changed = 0
    for name, weight in quantized.named_parameters():
        whole = dequantize(weight)
        if is_quantized(name, targets[name].shape):
            error = (whole - targets[name]).norm() / targets[name].norm()
            assert 0 < error < {"fp8": 0.05, "int8": 0.02, "int4": 0.12}[quant], name
            changed += 1
        targets[name].data.copy_(whole)

    assert changed >= 4 * plain.config.text_config.num_hidden_layers
    expected = logits(plain)
    # on a CPU bitsandbytes multiplies in bfloat16
    assert (logits(quantized) - expected).norm() / expected.norm() < (0.03 if quant == "int4" else 1e-4)


@each_quant
def test_only_the_language_models_matrices_are_quantized(model: Path, quant: Any) -> None:
    shapes = {name: weight.shape for name, weight in loaded(model).named_parameters()}

    for name, weight in loaded(model, quant=quant).named_parameters():
        assert is_quantized(name, shapes[name]) == (len(list(parts(weight))) > 1), name


@each_quant
def test_a_quantized_model_answers_alike_alone_and_together(starting: Starting, model: Path, quant: Any) -> None:
    engine = starting(model=str(model), quant=quant)
    prompts = [ask(number) for number in range(3)]

    alone = [answers(engine, [prompt])[0] for prompt in prompts]

    assert answers(engine, prompts) == alone


@each_quant
def test_the_bundled_model_is_still_right(starting: Starting, quant: Any) -> None:
    items = list(held_out(50))
    prompts = [ask_about(item, f"q{number}") for number, item in enumerate(items)]

    given = answers(starting(slots=32, model=str(TINY), quant=quant), prompts)

    assert sum(answer.text.strip() == item.answer for answer, item in zip(given, items, strict=True)) >= 45


@pytest.mark.parametrize("quant", QUANTS)
def test_a_package_that_is_missing_is_named(dense_model: Path, quant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.engine.model.quantize.find_spec", lambda package: None)

    with pytest.raises(NotReady, match=rf"VQA_QUANT={quant} needs {PACKAGES[quant]}: pip install 'vqa-queue\[quant\]'"):
        loaded(dense_model, quant=quant)


@each_quant
def test_a_checkpoint_that_is_quantized_already_is_refused(dense_model: Path, tmp_path: Path, quant: Any) -> None:
    copy = shutil.copytree(dense_model, tmp_path / "model")
    config = json.loads((copy / "config.json").read_text())
    method = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (copy / "config.json").write_text(json.dumps(config | {"quantization_config": method}))

    with pytest.raises(NotReady, match="quantized checkpoint already"):
        loaded(copy, quant=quant)


@pytest.mark.skipif("int4" in missing, reason="needs bitsandbytes")
def test_rows_that_are_no_whole_blocks_are_refused_by_name(expert_model: Path) -> None:
    with pytest.raises(NotReady, match=r"VQA_QUANT=int4: .*down_proj.* rows of 32, .* multiples of 64"):
        loaded(expert_model, quant="int4")


@each_quant
def test_experts_of_another_layout_are_refused_by_name(
    expert_model: Path, quant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.qwen3_vl_moe import modeling_qwen3_vl_moe

    class OtherExperts(torch.nn.Module):
        def __init__(self, config: Any) -> None:
            super().__init__()
            sides = (config.num_experts, config.hidden_size, config.moe_intermediate_size)
            self.gate_up_proj, self.down_proj = (torch.nn.Parameter(torch.empty(sides)) for _ in range(2))

    monkeypatch.setattr(modeling_qwen3_vl_moe, "Qwen3VLMoeTextExperts", OtherExperts)

    with pytest.raises(NotReady, match=rf"VQA_QUANT={quant}: .*gate_up_proj in a OtherExperts"):
        loaded(expert_model, quant=quant)
