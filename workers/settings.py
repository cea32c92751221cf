"""Settings of worker processes and their supervisor; the engine's are in `workers.engine.settings`."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from vqa.errors import SettingsError
from vqa.metrics.server import ListenAddress
from vqa.rollout import Target
from vqa.routing import MODEL_CHARACTERS, is_model_name
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
    served_name: str = Field(
        default="",
        description="names under which jobs and requests may ask for this worker's model, separated by commas; an "
        "answer has the name that was asked for, else the first. Unset: the model's own name",
    )
    unnamed_jobs: bool = Field(
        default=True, description="0 leaves jobs that name no model to other workers; needs VQA_SERVED_NAME"
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
    rollout_models: str = Field(
        default="",
        description="models that `vqa rollout` may start in place of the supervisor's own, separated by commas: each a "
        "hub's name, which allows its default branch alone, NAME@REVISION, or a local folder. Unset: none",
    )
    metrics_address: str | None = Field(
        default=None,
        description="where each worker shows its metrics to Prometheus, as 127.0.0.1:9110, or :9110 for all addresses; "
        "needs the extra metrics. A worker adds the number of its first card to the port: card 2 is at 9112. Unset: no "
        "metrics",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="log level: DEBUG, INFO, WARNING or ERROR"
    )

    @property
    def served_names(self) -> tuple[str, ...]:
        """The names of `served_name`, each once."""
        return tuple(dict.fromkeys(filter(None, map(str.strip, self.served_name.split(",")))))

    @property
    def decoders(self) -> int:
        """Number of processes that decode images."""
        # a container may be restricted to some of the machine's cores
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.media_processes or min(8, max(2, cores // 2))

    @property
    def metrics(self) -> ListenAddress | None:
        """Where metrics are shown, if they are."""
        return None if self.metrics_address is None else ListenAddress.parse(self.metrics_address)

    @field_validator("metrics_address")
    @classmethod
    def _is_address(cls, address: str | None) -> str | None:
        if address is not None:
            ListenAddress.parse(address)
        return address

    @field_validator("served_name")
    @classmethod
    def _are_names(cls, names: str) -> str:
        if not all(map(is_model_name, filter(None, map(str.strip, names.split(","))))):
            raise ValueError(f"a model's name has {MODEL_CHARACTERS}")
        return names

    @field_validator("unnamed_jobs")
    @classmethod
    def _takes_some_jobs(cls, unnamed: bool, info: ValidationInfo) -> bool:
        if not unnamed and not info.data.get("served_name"):
            raise ValueError("0 needs VQA_SERVED_NAME, by which jobs name this worker's model")
        return unnamed

    @property
    def rollout_targets(self) -> frozenset[Target]:
        """The models of `rollout_models`."""
        return frozenset(Target.parse(each) for each in map(str.strip, self.rollout_models.split(",")) if each)

    @field_validator("rollout_models")
    @classmethod
    def _are_targets(cls, models: str) -> str:
        for each in filter(None, map(str.strip, models.split(","))):
            Target.parse(each)
        return models

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
