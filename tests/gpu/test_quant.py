"""VQA_QUANT on a card: a smaller model that still answers right; experts compute what their weights say."""

from __future__ import annotations

import gc
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.gpu.conftest import CARD, Draw, error_of
from tests.worker_process import TINY
from tests.workers.engine.conftest import EXPERTS, TEXT, VISION, ask_about, build_model
from training.questions import held_out
from vqa.images.fit import Fit
from workers.engine.continuous.engine import ContinuousEngine
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


#: rows and columns: the 30B's, and those that end within a block
each_matrix = pytest.mark.parametrize("matrix", [(5120, 2048), (2048, 4096), (384, 512), (200, 72)], ids=str)


@pytest.mark.parametrize("tokens", [1, 37, 1030])
@pytest.mark.parametrize("width", [64, 200, 2048])
@pytest.mark.parametrize("by_group", [False, True])
def test_activations_are_quantized_as_on_the_cpu(draw: Draw, tokens: int, width: int, by_group: bool) -> None:
    import torch

    from workers.engine.continuous.ops.float8 import quantize_tokens
    from workers.engine.continuous.ops.quantize import quantize

    x = draw(tokens, width, dtype=torch.bfloat16)
    x[0, :128] = 0
    values, scales = quantize(x, rows_of=4 if by_group else 1, by_group=by_group)
    expected = quantize_tokens(x.cpu())

    assert len(values) == len(scales) == (-(-tokens // 4) * 4 if by_group else tokens)
    assert torch.equal(scales[:tokens].cpu(), expected[1])
    assert torch.equal(values[:tokens].view(torch.uint8).cpu(), expected[0].view(torch.uint8))
    assert not values[tokens:].float().any()


@each_matrix
@pytest.mark.parametrize("tokens", [1, 16, 63, 64, 65, 128, 513, 1030])
def test_float8_products_are_those_of_the_cpu(draw: Draw, matrix: tuple[int, int], tokens: int) -> None:
    import torch

    from workers.engine.continuous.ops import products, reference
    from workers.engine.continuous.ops.base import Float8Matrix
    from workers.engine.continuous.ops.float8 import quantize_matrix

    weight = quantize_matrix(draw(*matrix))
    x = draw(tokens, matrix[1], dtype=torch.bfloat16)
    expected = reference.linear(x.float().cpu(), Float8Matrix(weight.values.cpu(), weight.scales.cpu()))

    # what comes out is rounded to bfloat16
    assert error_of(products.linear(x, weight).cpu(), expected) < 4e-3
    assert error_of(products.many_tokens(x, weight, products.Tile(64, 64, 4, 4)).cpu(), expected) < 4e-3


def test_a_card_with_products_of_its_own_uses_them(draw: Draw) -> None:
    """And where they do not suit, Triton's, with the same result."""
    import torch

    from workers.engine.continuous.ops import products
    from workers.engine.continuous.ops.float8 import quantize_matrix

    if torch.cuda.get_device_capability(CARD)[0] != 9:
        pytest.skip("needs a Hopper card")
    weight, x = quantize_matrix(draw(2048, 4096)), draw(300, 4096, dtype=torch.bfloat16)

    assert error_of(products.cublas(x, weight), products.many_tokens(x, weight, products.Tile(128, 64, 4, 4))) < 4e-3


def scaled(image: Image.Image, fit: Fit | None) -> Image.Image:
    """To the size that the model sees, as decoders do."""
    assert fit is not None
    return image.resize(fit.size(*image.size), Image.Resampling(fit.resample))


@pytest.mark.parametrize("released", [True, False], ids=["released", "at-load"])
def test_the_continuous_engine_is_still_right_in_float8(tmp_path: Path, released: bool) -> None:
    from tests.workers.engine.continuous.model.test_float8 import release

    model = release(tmp_path / "fp8", TINY) if released else TINY
    settings = EngineSettings(model=str(model), engine="continuous", quant="none" if released else "fp8")
    engine = ContinuousEngine(settings.model_copy(update={"slot_tokens": 2048}), slots=64)
    engine.start(lambda error, ids: pytest.fail(f"the engine crashed: {error!r}"))
    items = [replace(item, image=scaled(item.image, engine.fit)) for item in held_out(300)]
    try:
        futures = [engine.submit(ask_about(item, f"q{number}")) for number, item in enumerate(items)]
        right = [future.result(WAIT_S).text.strip() == item.answer for future, item in zip(futures, items, strict=True)]
    finally:
        engine.stop()

    print(f"float8: {sum(right)} of {len(right)} right")
    assert sum(right) >= 0.95 * len(right)


def test_experts_in_float8_compute_what_the_cpu_does(experts: Path) -> None:
    import torch

    from workers.engine.continuous.model.float8 import read_weights
    from workers.engine.continuous.ops import fused, reference
    from workers.engine.continuous.ops.base import Float8Matrix
    from workers.engine.model.loading import load

    settings = EngineSettings(model=str(experts), engine="continuous", quant="fp8")
    part = read_weights(load(settings).model, settings).layers[0].feed_forward
    on_cpu = []
    for matrix in (part.gate_up, part.down):
        assert isinstance(matrix, Float8Matrix)
        on_cpu.append(Float8Matrix(matrix.values.cpu(), matrix.scales.cpu()))
    torch.manual_seed(0)
    for tokens in (1, 7, 64, 300, 2000):
        x = torch.randn(tokens, 256, device=CARD, dtype=torch.bfloat16)
        shares, chosen = torch.rand(tokens, 16, device=CARD).topk(2)
        made = fused.experts(x, shares.to(x.dtype), chosen.int(), part.gate_up, part.down)
        expected = reference.experts(x.float().cpu(), shares.cpu(), chosen.int().cpu(), *on_cpu)
        # the gate's product is rounded to bfloat16, and then to float8, where a step is an eighth
        assert error_of(made.cpu(), expected) < 3e-2
