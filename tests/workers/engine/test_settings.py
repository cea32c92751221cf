from __future__ import annotations

from typing import Any

import pytest

from vqa.errors import SettingsError
from workers.engine.settings import EngineSettings


def test_a_microbatch_is_half_the_slots_unless_it_is_set() -> None:
    assert [EngineSettings().microbatch_of(slots) for slots in (1, 2, 16)] == [1, 1, 8]
    assert EngineSettings(microbatch=12).microbatch_of(16) == 12


def test_image_tokens_are_of_32_by_32_pixels() -> None:
    assert EngineSettings(max_image_tokens=16).max_image_pixels == 128 * 128


def test_a_high_detail_is_no_less_than_the_usual_one() -> None:
    assert [EngineSettings(max_image_tokens=tokens).high_image_tokens for tokens in (1024, 8192)] == [4096, 8192]
    assert EngineSettings(high_image_tokens=1024).high_image_tokens == 1024
    with pytest.raises(SettingsError, match="HIGH_IMAGE_TOKENS: must be at least VQA_MAX_IMAGE_TOKENS, which is 1024"):
        EngineSettings(high_image_tokens=1000)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("engine", "continous"),
        ("model", "https://example.org/model"),
        ("model", " "),
        ("dtype", "int4"),
        ("slot_tokens", 0),
        ("max_image_tokens", 0),
        ("high_image_tokens", 0),
        ("replicas", 0),
        ("microbatch", 0),
        ("prefill_tokens", 63),
        ("vision_reuse_mib", -1),
        ("hang_s", 0),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    monkeypatch.setenv(f"VQA_{name.upper()}", str(value))

    with pytest.raises(SettingsError, match=f"VQA_{name.upper()}"):
        EngineSettings()
