"""Which tensors VQA_QUANT is for, and what a quantized model will take."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.worker_process import TINY
from vqa.errors import NotReady
from workers.engine.model.footprint import read_footprint, tensors_in
from workers.engine.model.quant import SCALE_SUFFIX, float8_bytes, is_quantized, stored_bytes
from workers.engine.settings import EngineSettings
from workers.slots import GIB, fit_slots

LAYER = "model.language_model.layers.7"
#: Qwen3-VL-30B-A3B-Instruct's, as far as its checkpoint goes: name, shape, how many
LARGE: list[tuple[str, tuple[int, ...], int]] = [
    ("model.language_model.embed_tokens.weight", (151_936, 2048), 1),
    ("lm_head.weight", (151_936, 2048), 1),
    ("model.language_model.layers.{}.self_attn.q_proj.weight", (4096, 2048), 48),
    ("model.language_model.layers.{}.self_attn.k_proj.weight", (512, 2048), 48),
    ("model.language_model.layers.{}.self_attn.v_proj.weight", (512, 2048), 48),
    ("model.language_model.layers.{}.self_attn.o_proj.weight", (2048, 4096), 48),
    ("model.language_model.layers.{}.mlp.gate.weight", (128, 2048), 48),
    ("model.language_model.layers.{}.mlp.experts.gate_up_proj", (128, 2048, 1536), 48),
    ("model.language_model.layers.{}.mlp.experts.down_proj", (128, 768, 2048), 48),
    ("model.visual.blocks.{}.mlp.linear_fc1.weight", (4304, 1152), 27),
    ("model.visual.blocks.{}.mlp.linear_fc2.weight", (1152, 4304), 27),
    ("model.visual.blocks.{}.attn.qkv.weight", (3456, 1152), 27),
    ("model.visual.blocks.{}.attn.proj.weight", (1152, 1152), 27),
]


def write_headers(file: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file of which only the header is there, as for weights that nobody opens."""
    header = json.dumps(
        {"__metadata__": {"format": "pt"}}
        | {name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in tensors.items()}
    ).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header)


@pytest.fixture
def large_model(tmp_path: Path) -> Path:
    tensors = {name.format(number): shape for name, shape, count in LARGE for number in range(count)}
    halves = list(tensors)[::2], list(tensors)[1::2]
    shards = {f"model-{part}.safetensors": names for part, names in enumerate(halves)}
    for file, names in shards.items():
        write_headers(tmp_path / file, {name: tensors[name] for name in names})
    index = {
        "metadata": {"total_size": 1},
        "weight_map": {name: file for file, names in shards.items() for name in names},
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    text = {"num_attention_heads": 32, "num_hidden_layers": 48, "num_key_value_heads": 4, "head_dim": 128}
    config = {"model_type": "qwen3_vl_moe", "text_config": text | {"dtype": "bfloat16"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (f"{LAYER}.self_attn.q_proj.weight", (64, 64)),
        (f"{LAYER}.mlp.down_proj.weight", (64, 64)),
        (f"{LAYER}.mlp.experts.gate_up_proj", (4, 64, 64)),
        (f"{LAYER}.mlp.experts.3.gate_proj.weight", (64, 64)),
        ("language_model.model.layers.0.mlp.up_proj.weight", (64, 64)),
        ("model.text_model.layers.0.mlp.up_proj.weight", (64, 64)),
    ],
)
def test_the_language_models_matrices_are_quantized(name: str, shape: tuple[int, ...]) -> None:
    assert is_quantized(name, shape)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.language_model.embed_tokens.weight", (64, 64)),
        ("lm_head.weight", (64, 64)),
        ("model.visual.blocks.0.attn.qkv.weight", (64, 64)),
        (f"{LAYER}.input_layernorm.weight", (64,)),
        (f"{LAYER}.self_attn.q_proj.bias", (64,)),
        (f"{LAYER}.mlp.gate.weight", (4, 64)),
    ],
)
def test_embeddings_vision_norms_and_routers_are_not(name: str, shape: tuple[int, ...]) -> None:
    assert not is_quantized(name, shape)


def test_scales_are_counted() -> None:
    assert stored_bytes("fp8", (8, 128)) == 8 * 128 + 8 * 4
    assert stored_bytes("int8", (2, 8, 128)) == 2 * 8 * 128 + 2 * 8 * 5
    assert stored_bytes("int4", (8, 128)) == 8 * 128 // 2 + 16 * 4


@pytest.mark.parametrize(("quant", "gib"), [("fp8", 29.9), ("int8", 29.9), ("int4", 17.6)])
def test_the_30b_model_takes_a_card_of_its_size(large_model: Path, quant: Any, gib: float) -> None:
    footprint = read_footprint(EngineSettings(model=str(large_model), quant=quant), on_card=True)

    assert footprint.weights_bytes / GIB == pytest.approx(gib, abs=0.05)
    assert footprint.kv_token_bytes == 96 * 1024
    # a layer's experts in bfloat16
    assert footprint.work_bytes == 2 * 128 * 2048 * (1536 + 768)


def test_scales_of_blocks_are_counted() -> None:
    assert float8_bytes((5120, 2048)) == 5120 * 2048 + 40 * 16 * 4
    assert float8_bytes((4, 130, 64)) == 4 * (130 * 64 + 2 * 4)


def release_in_float8(folder: Path) -> None:
    """Turn the large model into the released -FP8 checkpoint: values of a byte, scales beside them."""
    tensors = dict(tensor for file in folder.glob("*.safetensors") for tensor in tensors_in(file))
    for name, shape in list(tensors.items()):
        if is_quantized(name, shape):
            tensors[name + SCALE_SUFFIX] = (*shape[:-2], *(-(-side // 128) for side in shape[-2:]))
    write_headers(folder / "model-0.safetensors", tensors)
    write_headers(folder / "model-1.safetensors", {})
    config = json.loads((folder / "config.json").read_text())
    released = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": released}))


@pytest.mark.parametrize("released", [True, False], ids=["released", "at-load"])
def test_in_the_continuous_engine_float8_fits_a_card_of_48_gb(large_model: Path, released: bool) -> None:
    if released:
        release_in_float8(large_model)
    quant: Any = "none" if released else "fp8"
    settings = EngineSettings(model=str(large_model), engine="continuous", quant=quant, slot_tokens=16_384)
    footprint = read_footprint(settings, on_card=True)

    assert footprint.weights_bytes / GIB == pytest.approx(29.8, abs=0.05)
    # nothing is dequantized
    assert footprint.work_bytes == 0
    assert 16 <= fit_slots(settings, footprint, int(44.5 * GIB), (0,)).slots < 80


@pytest.mark.parametrize(
    ("quant", "free_gib", "fits"), [("int4", 23.5, True), ("int8", 23.5, False), ("int8", 39, True)]
)
def test_quantised_it_fits_smaller_cards(large_model: Path, quant: Any, free_gib: float, fits: bool) -> None:
    settings = EngineSettings(model=str(large_model), quant=quant)
    footprint = read_footprint(settings, on_card=True)

    if fits:
        assert fit_slots(settings, footprint, int(free_gib * GIB), (0,)).slots >= 4
    else:
        with pytest.raises(NotReady, match="does not fit card 0"):
            fit_slots(settings, footprint, int(free_gib * GIB), (0,))


def test_a_model_that_does_not_fit_is_told_what_would_help() -> None:
    footprint = read_footprint(EngineSettings(model=str(TINY)), on_card=True)

    with pytest.raises(NotReady, match=r"quantize it \(VQA_QUANT\), spread it over several cards \(VQA_CARDS=0\+1\)"):
        fit_slots(EngineSettings(model=str(TINY)), footprint, 0, (0,))


def test_without_quantisation_the_bundled_model_is_as_large_as_its_tensors() -> None:
    settings = EngineSettings(model=str(TINY))
    numbers = {}
    for file in TINY.glob("*.safetensors"):
        for name, shape in tensors_in(file):
            numbers[name] = 1
            for side in shape:
                numbers[name] *= side

    assert read_footprint(settings, on_card=True).weights_bytes == 2 * sum(numbers.values())


def test_a_checkpoint_that_is_quantised_already_is_refused_by_name(large_model: Path) -> None:
    config = json.loads((large_model / "config.json").read_text())
    (large_model / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))

    with pytest.raises(NotReady, match="unset VQA_QUANT=int8"):
        read_footprint(EngineSettings(model=str(large_model), quant="int8"), on_card=True)


def test_a_model_whose_layers_are_not_known_is_refused_by_name(large_model: Path) -> None:
    write_headers(large_model / "model-0.safetensors", {"blocks.0.attention.weight": (64, 64)})
    write_headers(large_model / "model-1.safetensors", {"blocks.1.attention.weight": (64, 64)})

    with pytest.raises(NotReady, match="VQA_QUANT=fp8 does not know the names of the layers"):
        read_footprint(EngineSettings(model=str(large_model), quant="fp8"), on_card=True)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64, (4).to_bytes(8, "little") + b"[1]]"])
def test_a_damaged_file_is_not_ready(large_model: Path, content: bytes) -> None:
    (large_model / "model-1.safetensors").write_bytes(content)

    with pytest.raises(NotReady, match="not a safetensors file"):
        read_footprint(EngineSettings(model=str(large_model), quant="int4"), on_card=True)


def test_a_folder_that_lacks_a_part_is_not_ready(large_model: Path) -> None:
    (large_model / "model-1.safetensors").unlink()

    with pytest.raises(NotReady, match=r"lacks model-1\.safetensors"):
        read_footprint(EngineSettings(model=str(large_model), quant="int4"), on_card=True)


def test_of_a_model_on_the_hub_the_headers_are_asked(large_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its config and index lie in the cache; the weights are not fetched for this."""
    small = {"config.json", "model.safetensors.index.json"}

    def cached(model: str, name: str, revision: str | None) -> str | None:
        return str(large_model / name) if name in small else None

    def metadata(self: object, model: str, revision: str | None) -> Any:
        assert (model, revision) == ("some/model", "v1")
        files = {
            file.name: SimpleNamespace(
                tensors={name: SimpleNamespace(shape=list(shape)) for name, shape in tensors_in(file)}
            )
            for file in large_model.glob("*.safetensors")
        }
        return SimpleNamespace(files_metadata=files)

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    monkeypatch.setattr("huggingface_hub.HfApi.get_safetensors_metadata", metadata)
    settings = EngineSettings(model="some/model", revision="v1", quant="int4")

    assert read_footprint(settings, on_card=True) == read_footprint(
        EngineSettings(model=str(large_model), quant="int4"), on_card=True
    )


def test_planning_a_quantized_model_imports_no_torch(large_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "transformers", "torchao", "bitsandbytes"):
        monkeypatch.setitem(sys.modules, name, None)

    assert read_footprint(EngineSettings(model=str(large_model), quant="int8"), on_card=True)
