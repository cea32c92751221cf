"""Settings of a worker process and of its supervisor; the engine's own are in `workers.engine.settings`."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field, field_validator

from vqa.errors import SettingsError
from vqa.settings import Settings
from workers.cards import parse_cards
from workers.slots import parse_slots


class WorkerSettings(Settings):
    """How workers are started, watched and stopped."""

    #: card numbers as nvidia-smi has them, `0+1` for two that share a model; empty for every card there is; `cpu` for
    #: none
    cards: str = ""
    #: a number for every card, or 0=16,1=8, or 0+1=16; from the card's memory where None
    slots: str | None = None
    #: None is half the cores, from 2 to 8
    media_processes: int | None = Field(default=None, ge=1, le=64)
    #: of answers to jobs that allow it
    reuse_ttl_s: int = Field(default=86_400, ge=0, le=366 * 86_400)
    ready_timeout_s: float = Field(default=1800.0, gt=0)
    restarts: int = Field(default=10, ge=0)
    #: the consumer needs a moment to stop before anything is given back
    drain_s: float = Field(default=60.0, ge=1)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @property
    def decoders(self) -> int:
        """Processes that decode images."""
        # a container may have been given some of the machine's
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.media_processes or min(8, max(2, cores // 2))

    @field_validator("cards")
    @classmethod
    def _are_cards(cls, cards: str) -> str:
        try:
            parse_cards(cards)
        except SettingsError as error:
            raise ValueError(str(error).removeprefix("VQA_CARDS: ")) from None
        return cards

    @field_validator("slots")
    @classmethod
    def _are_slots(cls, slots: str | None) -> str | None:
        if slots is not None:
            try:
                parse_slots(slots)
            except SettingsError as error:
                raise ValueError(str(error).removeprefix("VQA_SLOTS: ")) from None
        return slots
