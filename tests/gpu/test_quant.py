"""VQA_QUANT on a card: a smaller model that still answers right; experts compute what their weights say."""

import gc
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.worker_process import TINY
from tests.workers.engine.conftest import EXPERTS, TEXT, VISION, ask_about, build_model
from training.questions import held_out
from workers.engine.model.footprint import read_footprint
from workers.engine.model.quant import PACKAGES
from workers.engine.pipeline.engine import PipelineEngine
from workers.engine.settings import EngineSettings

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

WAIT_S = 120.0
each_quant = pytest.mark.parametrize(
    "quant",
    [
        pytest.param(quant, marks=pytest.mark.skipif(find_spec(package) is None, reason=f"needs {package}"))
        for quant, package in PACKAGES.items()
    ],
)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with experts whose dimensions suit every kernel: multiples of 128."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TEXT, "hidden_size", 256)
        patch.setitem(EXPERTS, "moe_intermediate_size", 128)
        patch.setitem(EXPERTS, "num_experts", 16)
        patch.setitem(VISION, "out_hidden_size", 256)
        return build_model(tmp_path_factory.mktemp("experts"), experts=True)


def started(**settings: Any) -> tuple[PipelineEngine, int]:
    """An engine over the bundled model, and the bytes that it keeps on the card."""
    import torch

    torch.cuda.synchronize()
    # free what earlier engines left
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    engine = PipelineEngine(EngineSettings(model=str(TINY), **settings), slots=64)
    engine.start(lambda error, ids: pytest.fail(f"the engine crashed: {error!r}"))
    torch.cuda.synchronize()
    return engine, torch.cuda.memory_allocated() - before


@each_quant
def test_the_bundled_model_takes_less_and_is_still_right(quant: Any) -> None:
    plain, whole = started()
    plain.stop()
    engine, size = started(quant=quant)
    items = list(held_out(300))
    try:
        futures = [engine.submit(ask_about(item, f"q{number}")) for number, item in enumerate(items)]
        right = [future.result(WAIT_S).text.strip() == item.answer for future, item in zip(futures, items, strict=True)]
    finally:
        engine.stop()

    planned = read_footprint(EngineSettings(model=str(TINY), quant=quant), on_card=True).weights_bytes
    print(f"{quant}: {size} bytes, planned {planned}, bfloat16 {whole}; {sum(right)} of {len(right)} right")
    assert size < whole
    assert size == pytest.approx(planned, rel=0.2)
    assert sum(right) >= 0.9 * len(right)


@each_quant
@pytest.mark.parametrize("tokens", [1, 7, 300])
def test_experts_compute_what_their_weights_say(experts: Path, quant: Any, tokens: int) -> None:
    import torch

    from workers.engine.model.loading import load
    from workers.engine.model.quantize import dequantize

    models = [load(EngineSettings(model=str(experts), **how)).model for how in ({}, {"quant": quant})]
    plain, packed = (model.model.language_model.layers[0].mlp.experts for model in models)
    for name in ("gate_up_proj", "down_proj"):
        weight = getattr(packed, name)
        whole = weight.dequantize() if hasattr(weight, "qdata") else dequantize(weight)
        error = (whole - getattr(plain, name)).float().norm() / whole.float().norm()
        assert 0 < error < {"fp8": 0.05, "int8": 0.02, "int4": 0.12}[quant]
        getattr(plain, name).data.copy_(whole)
    torch.manual_seed(0)
    hidden = torch.randn(tokens, 256, device="cuda", dtype=torch.bfloat16)
    shares, chosen = torch.rand(tokens, 16, device="cuda").topk(2)
    with torch.no_grad():
        expected, given = (experts(hidden, chosen, shares.to(torch.bfloat16)).float() for experts in (plain, packed))

    # fp8 rounds what it multiplies, too
    assert (given - expected).norm() / expected.norm() < (0.08 if quant == "fp8" else 0.02)


@each_quant
def test_a_model_with_experts_generates(experts: Path, quant: Any) -> None:
    engine = PipelineEngine(EngineSettings(model=str(experts), quant=quant), slots=16)
    engine.start(lambda error, ids: pytest.fail(f"the engine crashed: {error!r}"))
    try:
        items = list(held_out(8))
        futures = [engine.submit(ask_about(item, f"q{number}")) for number, item in enumerate(items)]
        assert all(future.result(WAIT_S).completion_tokens > 0 for future in futures)
    finally:
        engine.stop()
