"""Which model a card's next process loads: its supervisor's, or the one that a rollout asked for and that stayed up."""

from __future__ import annotations

import os
import time
from collections.abc import MutableMapping

from pydantic import ConfigDict, ValidationError

from vqa.frozen_model import Frozen
from vqa.rollout import REASON_CHARS, ProcessInfo, Request, Target

#: in a worker's environment: what its supervisor knows about its card; not a setting
_CARD = "_VQA_CARD"


class Inherited(Frozen):
    """What a supervisor tells the process that it starts, which may be of a later release."""

    model_config = ConfigDict(extra="ignore")

    #: the model that the supervisor's own environment names
    own: Target
    rollout: str = ""
    failed: str = ""
    #: False if it told nothing, as there is none or it is of an earlier release
    told: bool = True

    def process_info(self, target: Target) -> ProcessInfo:
        """Describe this process, which has the model `target`."""
        return ProcessInfo(started=time.time(), target=target, rollout=self.rollout, failed=self.failed)


def inherited(target: Target, environment: MutableMapping[str, str] = os.environ) -> Inherited:
    """Take what the supervisor told out of the environment; without a supervisor, `target` is this process's own."""
    told = environment.pop(_CARD, None)
    return Inherited(own=target, told=False) if told is None else Inherited.model_validate_json(told)


class CardModel:
    """The model of a card's processes, one after another."""

    def __init__(self, own: Target) -> None:
        self._own = own
        #: the last one that stayed up while it was watched, or that the environment names
        self._good = own
        self._request: Request | None = None
        #: whether the model asked for has yet to be ready and to stay up while it is watched
        self.on_trial = False
        self._failed = ""

    @property
    def target(self) -> Target:
        """The model of the next process."""
        return self._request.target if self.on_trial and self._request is not None else self._good

    @property
    def watch_s(self) -> float:
        """How long a model on trial is watched after it is ready."""
        return 0.0 if self._request is None else self._request.watch_s

    def try_out(self, request: Request) -> None:
        """Let the next process load the model that a rollout asks for."""
        self._request, self.on_trial, self._failed = request, True, ""

    def keep(self) -> None:
        """The process stayed up: its model stays."""
        self._good, self.on_trial = self.target, False

    def go_back(self, reason: str) -> None:
        """The process failed: the next one loads the model before."""
        self.on_trial, self._failed = False, reason[:REASON_CHARS]

    def environment(self) -> dict[str, str]:
        """Return the variables of the next process."""
        rollout = "" if self._request is None else self._request.id
        told = Inherited(own=self._own, rollout=rollout, failed=self._failed).model_dump_json()
        # an empty variable counts as not set
        return {"VQA_MODEL": self.target.model, "VQA_REVISION": self.target.revision or "", _CARD: told}


def parse_request(line: str) -> Request | None:
    """Parse what a worker sent; None if it is not a request."""
    try:
        return Request.model_validate_json(line)
    except ValidationError:
        return None
