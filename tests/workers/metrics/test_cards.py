"""Figures of cards: their units, and what happens where NVML does not tell."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from workers.metrics.cards import CardFigures


class NVMLError(Exception):
    pass


def nvml(**changed: Any) -> SimpleNamespace:
    """NVML as on a machine with two cards."""
    return SimpleNamespace(
        **{
            "NVMLError": NVMLError,
            "NVML_TEMPERATURE_GPU": 0,
            "nvmlInit": lambda: None,
            "nvmlDeviceGetHandleByIndex": lambda card: card,
            "nvmlDeviceGetUtilizationRates": lambda card: SimpleNamespace(gpu=75),
            "nvmlDeviceGetMemoryInfo": lambda card: SimpleNamespace(total=80 * 2**30, used=card * 2**30),
            "nvmlDeviceGetPowerUsage": lambda card: 350_500,
            "nvmlDeviceGetTemperature": lambda card, sensor: 61,
        }
        | changed
    )


def figures(cards: tuple[int, ...]) -> dict[str, dict[str, float]]:
    return {
        family.name: {sample.labels["card"]: sample.value for sample in family.samples}
        for family in CardFigures(cards).collect()
    }


def test_each_card_has_its_figures_in_base_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    assert figures((2, 3)) == {
        "vqa_gpu_utilization_ratio": {"2": 0.75, "3": 0.75},
        "vqa_gpu_memory_bytes": {"2": 80 * 2**30, "3": 80 * 2**30},
        "vqa_gpu_memory_used_bytes": {"2": 2 * 2**30, "3": 3 * 2**30},
        "vqa_gpu_power_watts": {"2": 350.5, "3": 350.5},
        "vqa_gpu_temperature_celsius": {"2": 61, "3": 61},
    }


def test_what_a_card_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(card: int) -> int:
        raise NVMLError("not supported")

    monkeypatch.setitem(sys.modules, "pynvml", nvml(nvmlDeviceGetPowerUsage=refuse))
    found = figures((0,))
    assert found["vqa_gpu_power_watts"] == {}
    assert found["vqa_gpu_temperature_celsius"] == {"0": 61}


def test_there_are_none_without_a_card() -> None:
    assert figures(()) == {}


def test_a_machine_without_nvml_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise NVMLError("no driver")

    monkeypatch.setitem(sys.modules, "pynvml", nvml(nvmlInit=refuse))
    assert figures((0,)) == {}


@pytest.mark.gpu
def test_a_real_card_tells_all() -> None:
    found = figures((0,))
    assert all(values["0"] > 0 for name, values in found.items() if name != "vqa_gpu_utilization_ratio")
    assert 0 <= found["vqa_gpu_utilization_ratio"]["0"] <= 1
    assert len(found) == 5
