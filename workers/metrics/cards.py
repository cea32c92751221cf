"""What NVML says of this worker's cards. Opens no CUDA."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from vqa.metrics import declared
from vqa.metrics.declared import Metric
from vqa.metrics.families import Family, family
from workers.cards import Cards

log = logging.getLogger(__name__)

#: percent, and milliwatts
_PERCENT, _MILLI = 100, 1000


class CardFigures:
    """Reads the cards at each call; yields nothing without a card or NVML."""

    def __init__(self, cards: Cards) -> None:
        self._handles: dict[int, Any] = {}
        if not cards:
            return
        try:
            import pynvml

            pynvml.nvmlInit()
            self._handles = {card: pynvml.nvmlDeviceGetHandleByIndex(card) for card in cards}
            self._error: type[Exception] = pynvml.NVMLError
        except ImportError:
            log.warning("metrics: no figures of the cards: nvidia-ml-py is not installed")
        except pynvml.NVMLError as error:
            log.warning("metrics: no figures of the cards: %s", error)

    def collect(self) -> Iterator[Family]:
        if not self._handles:
            return
        import pynvml

        reads: dict[Metric, Callable[[Any], float]] = {
            declared.GPU_BUSY: lambda card: pynvml.nvmlDeviceGetUtilizationRates(card).gpu / _PERCENT,
            declared.GPU_MEMORY: lambda card: pynvml.nvmlDeviceGetMemoryInfo(card).total,
            declared.GPU_MEMORY_USED: lambda card: pynvml.nvmlDeviceGetMemoryInfo(card).used,
            declared.GPU_POWER: lambda card: pynvml.nvmlDeviceGetPowerUsage(card) / _MILLI,
            declared.GPU_TEMPERATURE: lambda card: pynvml.nvmlDeviceGetTemperature(card, pynvml.NVML_TEMPERATURE_GPU),
        }
        for metric, read in reads.items():
            yield self._read(metric, read)

    def _read(self, metric: Metric, read: Callable[[Any], float]) -> Family:
        found = family(metric)
        for number, handle in self._handles.items():
            try:
                found.add_metric([str(number)], read(handle))
            except self._error:
                # virtual cards do not tell everything; a lost card tells nothing
                continue
        return found
