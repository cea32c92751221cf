"""Settings of a worker process and of its supervisor; the engine's own are in `workers.engine.settings`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from vqa.errors import SettingsError
from vqa.settings import Settings
from workers.slots import parse_slots


class WorkerSettings(Settings):
    """How workers are started, watched and stopped."""

    #: card numbers as nvidia-smi has them; empty for every card there is; `cpu` for none
    cards: str = ""
    #: a number for every card, or 0=16,1=8; from the card's memory where None
    slots: str | None = None
    media_threads: int = Field(default=4, ge=1, le=64)
    ready_timeout_s: float = Field(default=1800.0, gt=0)
    restarts: int = Field(default=10, ge=0)
    #: the consumer needs a moment to stop before anything is given back
    drain_s: float = Field(default=60.0, ge=1)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("cards")
    @classmethod
    def _are_cards(cls, cards: str) -> str:
        if cards not in {"", "cpu"} and not all(part.isdecimal() for part in cards.split(",")):
            raise ValueError("cards are numbers such as 0,1, or cpu")
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
