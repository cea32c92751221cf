"""Weights in float8 are what the checkpoint says, however it has them; `VQA_QUANT=fp8` makes the same of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.workers.engine.conftest import EXPERTS, SOON, TEXT, VISION, ask, build_model
from vqa.errors import NotReady
from workers.engine.base import Completion
from workers.engine.continuous.engine import ContinuousEngine
from workers.engine.continuous.model.float8 import read_weights
from workers.engine.continuous.model.weights import LanguageWeights
from workers.engine.continuous.ops import reference
from workers.engine.continuous.ops.base import Float8Matrix, Matrix
from workers.engine.continuous.ops.float8 import dequantize, quantize_matrix
from workers.engine.model.loading import load
from workers.engine.model.quant import is_quantized
from workers.engine.settings import EngineSettings

LAYER = "model.language_model.layers.1"
GATE_UP = f"{LAYER}.mlp.experts.gate_up_proj"
#: how the experts lie in a checkpoint
LAYOUTS = ["as-released", "as-transformers", "one-by-one"]
both = pytest.mark.parametrize("whole", ["experts", "dense"], indirect=True)
each_layout = pytest.mark.parametrize(
    ("whole", "layout"), [("dense", "as-released"), *(("experts", layout) for layout in LAYOUTS)], indirect=["whole"]
)

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def whole_experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model at full size; projections that are joined have multiples of 128 rows."""
    return built(tmp_path_factory, experts=True)


@pytest.fixture(scope="module")
def whole_dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory, experts=False)


@pytest.fixture
def whole(request: pytest.FixtureRequest) -> Path:
    """One of these two."""
    folder: Path = request.getfixturevalue(f"whole_{request.param}")
    return folder


def built(folders: pytest.TempPathFactory, experts: bool) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        text = {"hidden_size": 192, "intermediate_size": 256, "head_dim": 64}
        for name, value in text.items():
            patch.setitem(TEXT, name, value)
        patch.setitem(TEXT, "rope_parameters", {**TEXT["rope_parameters"], "mrope_section": [16, 8, 8]})
        patch.setitem(EXPERTS, "moe_intermediate_size", 128)
        patch.setitem(VISION, "out_hidden_size", 192)
        return build_model(folders.mktemp("whole"), experts=experts)


def release(
    folder: Path,
    whole: Path,
    layout: str = "as-released",
    kept: Collection[str] = (),
    change: Callable[[Tensors], None] = lambda tensors: None,
) -> Path:
    """Write the -FP8 checkpoint of a model, with what ends in one of `kept` at full size, and then changed."""
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    stored: Tensors = {}
    weights: Tensors = {}
    for file in whole.glob("*.safetensors"):
        weights |= load_file(file)
    for name, weight in weights.items():
        if not is_quantized(name, weight.shape) or name.endswith(tuple(kept)):
            stored[name] = weight
        elif weight.dim() == 2:
            put(stored, name, quantize_matrix(weight))
        else:
            put_experts(stored, name, weight, layout)
    change(stored)
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "weight_block_size": [128, 128],
        "activation_scheme": "dynamic",
        "ignored_layers": [*kept, "lm_head"],
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def put(stored: Tensors, name: str, matrix: Float8Matrix) -> None:
    stored[name], stored[f"{name}_scale_inv"] = matrix.values, matrix.scales


def put_experts(stored: Tensors, name: str, weights: Tensor, layout: str) -> None:
    if layout == "one-by-one":
        parent, _, part = name.rpartition(".")
        parts = ["gate_proj", "up_proj"] if part == "gate_up_proj" else ["down_proj"]
        for number, weight in enumerate(weights):
            for part, rows in zip(parts, weight.chunk(len(parts)), strict=True):
                put(stored, f"{parent}.{number}.{part}.weight", quantize_matrix(rows))
        return
    each = [quantize_matrix(weight) for weight in weights]
    values, scales = torch.stack([matrix.values for matrix in each]), torch.stack([matrix.scales for matrix in each])
    turn = layout == "as-released"
    put(stored, name, Float8Matrix(values.mT if turn else values, scales.mT if turn else scales))


def dequantized(folder: Path, whole: Path, released: Path) -> Path:
    """Write the model at full size whose weights are those of `released`, which has not one expert by itself."""
    shutil.copytree(whole, folder)
    stored = load_file(released / "model.safetensors")
    made = {}
    for name, tensor in stored.items():
        if not name.endswith("_scale_inv"):
            scales = stored.get(f"{name}_scale_inv")
            made[name] = tensor if scales is None else dequantize(Float8Matrix(tensor, scales)).contiguous()
    save_file(made, folder / "model.safetensors")
    return folder


def weights_of(folder: Path, **settings: Any) -> LanguageWeights:
    how = EngineSettings(model=str(folder), engine="continuous", **settings)
    return read_weights(load(how).model, how)


def matrices(weights: LanguageWeights) -> Iterator[Matrix]:
    for layer in weights.layers:
        yield from (layer.qkv, layer.out, layer.feed_forward.gate_up, layer.feed_forward.down)


def numbers(matrix: Matrix) -> Tensor:
    return matrix if isinstance(matrix, Tensor) else dequantize(matrix)


def answers(folder: Path, together: bool = True, **settings: Any) -> list[Completion]:
    engine = ContinuousEngine(EngineSettings(model=str(folder), engine="continuous", **settings), slots=4)
    engine.start(lambda error, ids: pytest.fail(f"the engine crashed: {error!r}"))
    try:
        if together:
            return [future.result(SOON) for future in [engine.submit(ask(number)) for number in range(6)]]
        return [engine.submit(ask(number)).result(SOON) for number in range(6)]
    finally:
        engine.stop()


@each_layout
def test_a_released_checkpoint_is_read_as_it_is(whole: Path, tmp_path: Path, layout: str) -> None:
    released = release(tmp_path / "fp8", whole, layout)

    read = weights_of(released)
    expected = weights_of(dequantized(tmp_path / "whole", whole, release(tmp_path / "other", whole)))

    for matrix, weight in zip(matrices(read), matrices(expected), strict=True):
        assert isinstance(matrix, Float8Matrix)
        assert matrix.values.is_contiguous()
        assert matrix.scales.is_contiguous()
        assert torch.equal(dequantize(matrix), numbers(weight))
    for layer, other in zip(read.layers, expected.layers, strict=True):
        assert torch.equal(layer.input_norm, other.input_norm)
        assert torch.equal(layer.heads.query_norm, other.heads.query_norm)
    assert torch.equal(read.head, expected.head)


@each_layout
def test_quantizing_at_load_makes_the_same_weights(whole: Path, tmp_path: Path, layout: str) -> None:
    released = weights_of(release(tmp_path / "fp8", whole, layout))
    made = weights_of(whole, quant="fp8")

    for one, other in zip(matrices(released), matrices(made), strict=True):
        assert isinstance(one, Float8Matrix)
        assert isinstance(other, Float8Matrix)
        assert torch.equal(one.values.view(torch.uint8), other.values.view(torch.uint8))
        assert torch.equal(one.scales, other.scales)


@both
def test_a_model_that_was_loaded_otherwise_is_quantized_from_memory(whole: Path) -> None:
    settings = EngineSettings(model=str(whole), engine="continuous", quant="fp8")
    loaded: Any = load(settings.model_copy(update={"quant": "none"})).model

    made = read_weights(loaded, settings)

    for one, other in zip(matrices(made), matrices(weights_of(whole, quant="fp8")), strict=True):
        assert isinstance(one, Float8Matrix)
        assert torch.equal(numbers(one), numbers(other))
    # else both would be on the card
    assert not any(name.endswith(("o_proj.weight", "down_proj")) for name, _ in loaded.named_parameters())


@both
def test_without_rounded_activations_answers_are_those_of_the_dequantized_weights(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = release(tmp_path / "fp8", whole)
    monkeypatch.setattr(reference, "rounded", lambda x: x)

    assert answers(released) == answers(dequantized(tmp_path / "whole", whole, released))


@both
def test_both_ways_to_float8_give_the_same_answers(whole: Path, tmp_path: Path) -> None:
    # one by one: a product of other rows has other last bits, after which an activation may round to another number
    assert answers(release(tmp_path / "fp8", whole), together=False) == answers(whole, together=False, quant="fp8")


@pytest.mark.parametrize("tokens", [1, 7, 200])
def test_rounded_activations_change_products_little(whole_experts: Path, tokens: int) -> None:
    torch.manual_seed(0)
    layer = weights_of(whole_experts, quant="fp8").layers[0]
    gate_up, down = layer.feed_forward.gate_up, layer.feed_forward.down
    x = torch.randn(tokens, 192)
    shares, chosen = torch.rand(tokens, 4).topk(2)
    made = reference.experts(x, shares, chosen.int(), gate_up, down), reference.linear(x, layer.qkv)
    expected = (
        reference.experts(x, shares, chosen.int(), numbers(gate_up), numbers(down)),
        reference.linear(x, numbers(layer.qkv)),
    )

    for one, other in zip(made, expected, strict=True):
        assert 0 < (one - other).norm() / other.norm() < 0.05


def test_layers_that_are_not_quantized_are_left_alone(whole_experts: Path, tmp_path: Path) -> None:
    kept = ["0.self_attn.o_proj.weight", "1.mlp.experts.down_proj"]
    read = weights_of(release(tmp_path / "fp8", whole_experts, kept=kept))
    before = weights_of(whole_experts)

    assert isinstance(read.layers[0].out, Tensor)
    assert torch.equal(read.layers[0].out, numbers(before.layers[0].out))
    assert torch.equal(numbers(read.layers[1].feed_forward.down), numbers(before.layers[1].feed_forward.down))
    assert isinstance(read.layers[1].out, Float8Matrix)


def test_a_part_at_full_size_keeps_what_it_is_joined_with_there(whole_experts: Path, tmp_path: Path) -> None:
    read = weights_of(release(tmp_path / "fp8", whole_experts, kept=["k_proj.weight"])).layers[0].qkv
    before = weights_of(whole_experts).layers[0].qkv
    parts = numbers(before).split([256, 128, 128])

    assert isinstance(read, Tensor)
    assert torch.equal(read[256:384], parts[1])
    assert torch.equal(read[:256], dequantize(quantize_matrix(parts[0])))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_that_end_within_a_block_are_what_their_scales_say(
    expert_model: Path, tmp_path: Path, layout: str
) -> None:
    read = weights_of(release(tmp_path / "fp8", expert_model, layout)).layers[0]
    before = weights_of(expert_model).layers[0]

    # 64 + 32 + 32 rows: a block would need two scales
    parts = numbers(before.qkv).split([64, 32, 32])
    assert torch.equal(numbers(read.qkv), torch.cat([dequantize(quantize_matrix(part)) for part in parts]))
    assert torch.equal(numbers(read.out), dequantize(quantize_matrix(numbers(before.out))))
    down = numbers(before.feed_forward.down)
    assert torch.equal(numbers(read.feed_forward.down), torch.stack([dequantize(quantize_matrix(d)) for d in down]))


def test_a_model_of_small_matrices_answers_in_float8(dense_model: Path) -> None:
    assert all(answer.completion_tokens for answer in answers(dense_model, quant="fp8"))


def without(part: str) -> Callable[[Tensors], None]:
    def remove(tensors: Tensors) -> None:
        for name in [name for name in tensors if part in name]:
            del tensors[name]

    return remove


def with_tensor(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: change(tensors[name])})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(without(f"{GATE_UP}_scale_inv"), f"no tensor {GATE_UP}_scale_inv", id="no-scales"),
        pytest.param(without(f"{LAYER}.self_attn.v_proj.weight_scale_inv"), "v_proj", id="no-scales-v"),
        pytest.param(without(f"{LAYER}.self_attn.q_norm"), f"no tensor {LAYER}.self_attn.q_norm", id="no-norm"),
        pytest.param(
            with_tensor(f"{GATE_UP}_scale_inv", lambda scales: scales[:, :, :1]),
            rf"{GATE_UP}_scale_inv .* is \[4, 2, 1\] and has to be \[4, 2, 2\]",
            id="fewer-scales",
        ),
        pytest.param(
            with_tensor(f"{GATE_UP}_scale_inv", lambda scales: scales * torch.nan), "is damaged", id="scales-of-nan"
        ),
        pytest.param(
            with_tensor(f"{LAYER}.self_attn.o_proj.weight", lambda values: values[:-1]),
            "o_proj.weight",
            id="fewer-rows",
        ),
        pytest.param(without("language_model.layers.0."), "not named as those of a Qwen3-VL", id="no-layers"),
    ],
)
def test_what_is_missing_or_damaged_is_named(
    whole_experts: Path, tmp_path: Path, change: Callable[[Tensors], None], said: str
) -> None:
    released = release(tmp_path / "fp8", whole_experts, change=change)

    with pytest.raises(NotReady, match=said):
        weights_of(released)


def test_a_released_checkpoint_is_not_quantized_again(whole_experts: Path, tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="unset VQA_QUANT=fp8"):
        weights_of(release(tmp_path / "fp8", whole_experts), quant="fp8")
