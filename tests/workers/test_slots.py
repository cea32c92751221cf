from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqa.errors import NotReady, SettingsError
from workers.engine.model.footprint import ModelFootprint, kv_elements, read_footprint
from workers.engine.settings import EngineSettings
from workers.slots import (
    DEFAULT_SLOTS,
    GIB,
    MAX_CONTINUOUS_SLOTS,
    MAX_SLOTS,
    SlotPlan,
    fit_slots,
    parse_slots,
    plan_slots,
    slots_for,
)

#: Qwen3-VL-30B-A3B-Instruct's, as far as memory goes
LARGE = {
    "architectures": ["Qwen3VLMoeForConditionalGeneration"],
    "model_type": "qwen3_vl_moe",
    "text_config": {
        "dtype": "bfloat16",
        "head_dim": 128,
        "hidden_size": 2048,
        "num_attention_heads": 32,
        "num_hidden_layers": 48,
        "num_key_value_heads": 4,
    },
    "vision_config": {"depth": 27, "hidden_size": 1152, "num_heads": 16},
}
LARGE_WEIGHTS = 62_141_014_016
LARGE_SHAPE = ModelFootprint(weights_bytes=LARGE_WEIGHTS, kv_token_bytes=96 * 1024)
#: what is free on each card
FREE = {0: 79 * GIB, "GPU-1234": 79 * GIB, 1: 40 * GIB, 2: 44 * GIB}


@pytest.fixture
def large_model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(LARGE))
    index = {"metadata": {"total_size": LARGE_WEIGHTS}, "weight_map": {}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


@pytest.fixture
def one_card(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """NVML with one card of 80 GiB, 79 of them free, and two smaller ones; the handles that were asked for."""
    asked: list[Any] = []

    class NVMLError(Exception):
        pass

    def handle(card: Any) -> Any:
        asked.append(card)
        if card not in FREE:
            raise NVMLError("Invalid Argument")
        return card

    fake = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=handle,
        nvmlDeviceGetHandleByUUID=handle,
        nvmlDeviceGetMemoryInfo=lambda card: SimpleNamespace(free=FREE[card]),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return asked


def test_a_token_of_the_30b_model_takes_96_kib_in_bfloat16(large_model: Path) -> None:
    settings = EngineSettings(model=str(large_model))

    assert read_footprint(settings, on_card=True) == LARGE_SHAPE


def test_on_the_cpu_a_model_is_loaded_in_float32(large_model: Path) -> None:
    shape = read_footprint(EngineSettings(model=str(large_model)), on_card=False)

    assert shape == ModelFootprint(2 * LARGE_WEIGHTS, 2 * 96 * 1024)


@pytest.mark.parametrize(("dtype", "factor"), [("bfloat16", 1), ("float16", 1), ("float32", 2), ("auto", 1)])
def test_the_dtype_that_is_asked_for_counts(large_model: Path, dtype: Any, factor: int) -> None:
    shape = read_footprint(EngineSettings(model=str(large_model), dtype=dtype), on_card=True)

    assert shape.kv_token_bytes == factor * 96 * 1024


def test_a_model_without_nested_config_heads_of_its_own_and_index_is_read_too(tmp_path: Path) -> None:
    config = {"torch_dtype": "float32", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))

    shape = read_footprint(EngineSettings(model=str(tmp_path)), on_card=True)

    assert shape == ModelFootprint(weights_bytes=1000, kv_token_bytes=2 * 3 * 64 * 4)


def test_a_config_that_says_too_little_names_the_way_out() -> None:
    with pytest.raises(NotReady, match="VQA_SLOTS"):
        kv_elements({"hidden_size": 64})


@pytest.mark.parametrize("model", ["/no/such/folder", "./nothing", "a/b/c"])
def test_a_folder_that_is_not_there_is_not_ready(model: str) -> None:
    with pytest.raises(NotReady, match="VQA_MODEL"):
        read_footprint(EngineSettings(model=model), on_card=True)


def test_a_folder_without_config_is_not_ready(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match=r"config\.json"):
        plan_slots(EngineSettings(model=str(tmp_path)), ())


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A hub that has the large model's config and index; the files that were fetched. The cache is empty."""
    from huggingface_hub.errors import RemoteEntryNotFoundError

    fetched: list[str] = []

    def download(model: str, name: str, revision: str | None) -> str:
        if model != "some/model" or revision != "v1" or not (tmp_path / name).is_file():
            raise RemoteEntryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))
        fetched.append(name)
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    # asked before a download, whether there is a network
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    return fetched


def test_a_hub_name_needs_two_small_files_of_the_named_revision(large_model: Path, hub: list[str]) -> None:
    settings = EngineSettings(model="some/model", revision="v1")

    assert read_footprint(settings, on_card=True) == LARGE_SHAPE
    assert hub == ["config.json", "model.safetensors.index.json"]


def test_what_the_hub_does_not_have_is_not_ready(hub: list[str]) -> None:
    with pytest.raises(NotReady, match="some/other"):
        read_footprint(EngineSettings(model="some/other", revision="v1"), on_card=True)


def test_a_hub_that_cannot_be_reached_is_not_ready(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("words of the client\nin many lines")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)

    with pytest.raises(NotReady, match="cannot be reached"):
        read_footprint(EngineSettings(model="some/model"), on_card=True)


def test_a_card_gets_the_slots_that_fit(large_model: Path, one_card: list[Any]) -> None:
    plan = plan_slots(EngineSettings(model=str(large_model)), (0,))

    # 79 GiB less 57.9 of weights and 7.9 of reserve, in slots of 384 MiB
    assert plan.slots == 35
    assert 0 <= plan.unused_bytes < plan.kv_slot_bytes == 384 * 2**20
    assert one_card == [0]


def test_a_card_may_be_named_by_its_uuid(large_model: Path, one_card: list[Any]) -> None:
    assert plan_slots(EngineSettings(model=str(large_model)), ("GPU-1234",)).slots == 35


def test_a_card_that_is_not_there_is_not_ready(large_model: Path, one_card: list[Any]) -> None:
    with pytest.raises(NotReady, match="card 7"):
        plan_slots(EngineSettings(model=str(large_model)), (7,))


def test_planning_imports_no_torch(large_model: Path, one_card: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)

    assert plan_slots(EngineSettings(model=str(large_model)), (0,))


def test_the_users_number_is_taken_where_it_fits(large_model: Path, one_card: list[Any]) -> None:
    settings = EngineSettings(model=str(large_model))

    assert plan_slots(settings, (0,), 8).slots == 8
    with pytest.raises(NotReady, match=r"64 slots .*35 slots fit \(VQA_SLOTS\), or 64 of 2240 tokens"):
        plan_slots(settings, (0,), 64)


def test_each_card_of_several_counts_for_as_much_as_the_smallest(large_model: Path, one_card: list[Any]) -> None:
    plan = plan_slots(EngineSettings(model=str(large_model)), (1, 2))

    # 2 x 40 GiB less 57.9 of weights and 8 of reserve, in slots of 384 MiB
    assert plan.free_bytes == 80 * GIB
    assert plan.slots == 37
    assert str(plan).startswith("cards 1+2: 37 slots; 80.00 GiB free")


def test_each_card_of_several_has_a_reserve_of_its_own() -> None:
    small = ModelFootprint(GIB // 2, 1024)

    plans = [fit_slots(EngineSettings(), small, 8 * GIB, cards) for cards in ((0,), (0, 1, 2, 3))]

    assert [plan.reserve_bytes for plan in plans] == [GIB, 4 * GIB]


def test_replicas_of_a_spread_model_are_refused_by_name(large_model: Path) -> None:
    with pytest.raises(SettingsError, match=r"VQA_REPLICAS=2.*cards 0\+1"):
        plan_slots(EngineSettings(model=str(large_model), replicas=2), (0, 1))


def test_a_model_larger_than_its_card_says_by_how_much() -> None:
    with pytest.raises(NotReady, match=r"weights take 57\.87 GiB.*22\.00 GiB is free.*VQA_MODEL"):
        fit_slots(EngineSettings(), LARGE_SHAPE, 22 * GIB, (0,))


def test_each_replica_has_its_weights() -> None:
    small = ModelFootprint(10 * GIB, 96 * 1024)

    assert fit_slots(EngineSettings(replicas=3), small, 79 * GIB, (0,)).weights_bytes == 30 * GIB
    with pytest.raises(NotReady, match="VQA_REPLICAS"):
        fit_slots(EngineSettings(replicas=8), small, 79 * GIB, (0,))


def test_a_small_model_gets_no_more_slots_than_are_of_use() -> None:
    small = ModelFootprint(GIB, 1024)

    assert fit_slots(EngineSettings(), small, 79 * GIB, (0,)).slots == MAX_SLOTS
    assert fit_slots(EngineSettings(engine="continuous"), small, 79 * GIB, (0,)).slots == MAX_CONTINUOUS_SLOTS
    assert fit_slots(EngineSettings(), small, 16 * GIB, ()).slots == DEFAULT_SLOTS


@given(
    weights=st.integers(0, 100 * GIB),
    kv=st.integers(1, 2**21),
    free=st.integers(0, 200 * GIB),
    tokens=st.integers(64, 32_768),
    slots=st.none() | st.integers(1, 1024),
)
@settings(deadline=None)
def test_a_plan_always_fits(weights: int, kv: int, free: int, tokens: int, slots: int | None) -> None:
    settings = EngineSettings(slot_tokens=tokens)
    try:
        plan = fit_slots(settings, ModelFootprint(weights, kv), free, (0,), slots)
    except NotReady:
        return

    assert plan.unused_bytes >= 0
    assert plan.slots == slots or 1 <= plan.slots <= MAX_SLOTS


def test_the_echo_engine_needs_no_plan() -> None:
    settings = EngineSettings(engine="echo")

    assert plan_slots(settings, ()).slots == 16
    assert plan_slots(settings, (0,), 4) == SlotPlan(4)


def test_the_plan_is_one_line() -> None:
    plan = fit_slots(EngineSettings(), LARGE_SHAPE, 79 * GIB, (0,), 16)

    assert str(plan) == (
        "card 0: 16 slots; 79.00 GiB free = weights 57.87 GiB + 16 x 384.0 MiB cache + 7.90 GiB for activations + "
        "7.23 GiB left"
    )
    assert str(SlotPlan(16)) == "16 slots, no model"


def test_slots_are_one_number_or_one_a_card() -> None:
    assert parse_slots("16") == 16
    assert parse_slots("0=16, 1=8") == {(0,): 16, (1,): 8}
    assert parse_slots("0+1=16,2=8") == {(0, 1): 16, (2,): 8}


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "many", "0=16;1=8", "0=16,", "0=0", "2000", "0=1,0=2", "1.5", "0+=1", "+1=1"]
)
def test_slots_that_mean_nothing_are_refused_by_name(text: str) -> None:
    with pytest.raises(SettingsError, match="VQA_SLOTS"):
        parse_slots(text)


def test_a_card_that_is_not_named_is_left_to_its_memory() -> None:
    assert slots_for({(0,): 16}, (0,)) == 16
    assert slots_for({(0,): 16}, (1,)) is None
    assert slots_for({(0,): 16}, (0, 1)) is None
    assert slots_for({(0,): 16}, ()) is None
    assert slots_for(8, (1,)) == 8
    assert slots_for(None, (0,)) is None
