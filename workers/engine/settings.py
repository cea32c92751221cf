"""What an engine needs to know: which model, how many prompts together, how large they may be.

Knows nothing of processes, cards' numbers or Redis.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from vqa.errors import SettingsError
from vqa.settings import Settings

Quant = Literal["none", "fp8", "int8", "int4"]

#: an image costs one token for so many pixels: 32 x 32 after merging patches (Qwen2-VL and Qwen3-VL)
PIXELS_PER_TOKEN = 32 * 32


class EngineSettings(Settings):
    """Read from `VQA_` variables, or given by field name; frozen."""

    engine: Literal["auto", "continuous", "pipeline", "echo"] = "auto"
    model: str = Field(default="Qwen/Qwen3-VL-30B-A3B-Instruct", min_length=1)
    revision: str | None = None
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    #: what the language model's matrices are stored as on the card
    quant: Quant = "none"
    trust_remote_code: bool = False
    #: tokens of prompt and answer together
    slot_tokens: int = Field(default=4096, ge=64)
    max_image_tokens: int = Field(default=1024, ge=4)
    #: of the continuous engine: what is computed of prompts between two steps at most
    prefill_tokens: int = Field(default=8192, ge=64)
    #: of the continuous engine: memory for features of images that may be asked about again
    vision_reuse_mib: int = Field(default=512, ge=0)
    replicas: int = Field(default=1, ge=1, le=64)
    #: that bulk leaves free for interactive; None is some, while interactive jobs come
    reserved_slots: int | None = Field(default=None, ge=0, le=1023)
    #: None is half the slots
    microbatch: int | None = Field(default=None, ge=1, le=1024)
    microbatch_wait_ms: float = Field(default=5.0, ge=0, le=10_000)
    #: one decode step; the other phases' limits follow from it (`workers.engine.runtime.heartbeat`)
    hang_s: float = Field(default=60.0, ge=0.1, le=86_400)
    echo_delay_s: float = Field(default=0.0, ge=0)
    echo_load_s: float = Field(default=0.0, ge=0)
    echo_journal: Path | None = None

    @field_validator("model")
    @classmethod
    def _is_named(cls, model: str) -> str:
        if not model.strip() or "://" in model:
            raise ValueError("a model is a hub name such as Qwen/Qwen3-VL-4B-Instruct, or a local folder")
        return model

    @property
    def max_image_pixels(self) -> int:
        """Pixels that the model sees of an image at most."""
        return self.max_image_tokens * PIXELS_PER_TOKEN

    @property
    def planned_tokens(self) -> int:
        """Tokens of cache that are planned for a slot.

        In the continuous engine a prompt takes what it needs: one image, some words and an answer are taken as usual.
        """
        return min(self.slot_tokens, self.max_image_tokens + 512) if self.engine == "continuous" else self.slot_tokens

    def reserve_of(self, slots: int) -> int:
        """Slots of a card's `slots` that bulk leaves free. Raises SettingsError where that would be all of them."""
        if self.reserved_slots is None:
            # with 16 slots, a quarter of them interactive, one is not enough: simulated p95 of the wait 0.1 of a job's
            # time with one, 0.02 with two
            return max(1, slots // 16, min(2, slots // 8)) if slots >= 4 else 0
        if self.reserved_slots >= slots:
            raise SettingsError(
                f"VQA_RESERVED_SLOTS={self.reserved_slots}: of {slots} slots at most {slots - 1} can be reserved"
            )
        return self.reserved_slots

    def microbatch_of(self, slots: int) -> int:
        """Most prompts that one pipeline runs together when its card has `slots`."""
        return self.microbatch if self.microbatch is not None else max(1, slots // 2)
