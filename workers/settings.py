"""Settings of worker processes and their supervisor; the engine's are in `workers.engine.settings`."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field, field_validator

from vqa.errors import SettingsError
from vqa.settings import Settings
from workers.cards import parse_cards
from workers.slots import parse_slots

#: a larger message is not parsed: 64 MiB take a worker seconds. Two of the largest images, in base64, fit
MESSAGE_MAX_BYTES = 80 * 2**20


class WorkerSettings(Settings):
    cards: str = Field(
        default="",
        description="cards to use, numbered as by nvidia-smi, one worker each: 0,1; 0+1 spreads one model over both "
        "cards; cpu for no card. Unset: all cards",
    )
    slots: str | None = Field(
        default=None,
        description="concurrent jobs per worker: 16, or per card 0=16,1=8 or 0+1=16. Unset: derived from free memory",
    )
    media_processes: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="processes that decode images. Unset: half the CPU cores, at least 2 and at most 8",
    )
    message_max_bytes: int = Field(
        default=MESSAGE_MAX_BYTES,
        ge=1024,
        description="bytes of a message of another Celery app, with its images, that a worker parses; a larger one "
        "ends as a dead letter",
    )
    reuse_ttl_s: int = Field(
        default=86_400,
        ge=0,
        le=366 * 86_400,
        description="seconds that an answer is kept for later jobs that allow `reuse`; 0 disables it",
    )
    ready_timeout_s: float = Field(
        default=1800.0, gt=0, description="seconds after which a worker that is not ready is given up"
    )
    restarts: int = Field(
        default=10,
        ge=0,
        description="restarts in a row, without an answer in between, after which a card is given up; one that has "
        "answered jobs is given up only if its worker does not get ready",
    )
    # at least 1: the consumer needs a moment to stop before jobs are given back
    drain_s: float = Field(
        default=60.0, ge=1, description="seconds that a stopping worker has to finish its jobs; it gives back the rest"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="log level: DEBUG, INFO, WARNING or ERROR"
    )

    @property
    def decoders(self) -> int:
        """Number of processes that decode images."""
        # a container may be restricted to some of the machine's cores
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
