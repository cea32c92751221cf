"""All families, by their names in docs/models.md."""

from __future__ import annotations

from collections.abc import Mapping

from tests.workers.engine.pipeline.families.family import Family
from tests.workers.engine.pipeline.families.llava import LLAVA
from tests.workers.engine.pipeline.families.others import OTHERS
from tests.workers.engine.pipeline.families.qwen import QWEN

FAMILIES: Mapping[str, Family] = {**QWEN, **LLAVA, **OTHERS}

#: classes of configs and processors for whose images transformers needs torchvision
REFUSED: Mapping[str, str] = {
    "Command A Vision": "Cohere2Vision",
    "LFM2-VL": "Lfm2Vl",
    "Llama 4": "Llama4",
    "Molmo 2": "Molmo2",
    "Perception LM": "PerceptionLM",
}
