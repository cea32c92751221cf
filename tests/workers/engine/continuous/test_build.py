"""What is measured before the KV cache gets the rest of a card's memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from workers.engine.continuous import build
from workers.engine.continuous.model import vision
from workers.engine.continuous.requests import ImageSpan
from workers.engine.settings import EngineSettings

MOST = 4096


@pytest.fixture
def patches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each pass of the vision tower; it has at most 4096."""
    seen: list[int] = []
    forward = vision.VisionTower._forward

    def watched(self: vision.VisionTower, images: Sequence[ImageSpan]) -> list[torch.Tensor]:
        seen.append(sum(image.patches for image in images))
        return forward(self, images)

    for module in (build, vision):
        monkeypatch.setattr(module, "MAX_PATCHES", MOST)
    monkeypatch.setattr(vision.VisionTower, "_forward", watched)
    return seen


def test_the_trial_computes_as_many_patches_at_once_as_a_pass_may(
    dense: Any, patches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(device: torch.device, trial: Callable[[], int], sampling_elements: int, kept_bytes: int) -> int:
        trial()
        return 2**30

    monkeypatch.setattr(build, "kv_cache_bytes", measured)
    build.build(dense, EngineSettings(model="any", prefill_tokens=64, slot_tokens=512, max_image_tokens=64), 4)

    assert max(patches) == MOST
