"""The remote control command `rollout`: drain, and let the supervisor start this card again with another model.

Whoever may send remote control commands may ask for it; which models a worker accepts is for its own settings to say.
"""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

from celery.worker.control import Panel, nok, ok
from pydantic import ValidationError

from vqa.rollout import COMMAND, Acceptance, ProcessInfo, Request, Target
from workers.engine.settings import EngineSettings
from workers.settings import WorkerSettings
from workers.supervisor.card_model import inherited
from workers.supervisor.link import SupervisorLink

log = logging.getLogger(__name__)

#: beside VQA_DRAIN_S and VQA_READY_TIMEOUT_S: to end, to free the card and to start Python, in seconds
_MARGIN_S = 60.0


class Refused(Exception):
    """Why a worker does not do what a request asks."""


class Rollouts:
    """Accepts or refuses what `vqa rollout` asks of this process."""

    def __init__(self, link: SupervisorLink, settings: WorkerSettings, engine: EngineSettings) -> None:
        self._link = link
        self._settings = settings
        self._engine = engine
        self._current = Target(model=engine.model, revision=engine.revision)
        self._inherited = inherited(self._current)
        self.process: ProcessInfo = self._inherited.process_info(self._current)
        #: id of the request that was sent to the supervisor
        self._sent = ""

    def register(self) -> None:
        """Add the command to Celery's, in this process."""
        Panel.register(name=COMMAND)(self.handle)

    def handle(self, state: Any, request: object = None, check: object = False, **_: Any) -> dict[str, Any]:
        """Restart with another model; with `check` only say whether this worker would."""
        try:
            asked = Request.model_validate(request)
            self._check(asked.target)
            if check is not True:
                self._restart(asked)
        except ValidationError:
            return _refuse("it is malformed: it needs an id, and a target with a model and perhaps a revision")
        except Refused as refusal:
            return _refuse(str(refusal))
        # drained, a failed start, and a start of the model before
        limit_s = self._settings.drain_s + 2 * (self._settings.ready_timeout_s + _MARGIN_S)
        return dict(ok(Acceptance(limit_s=limit_s, own=self._inherited.own).model_dump()))

    def _check(self, target: Target) -> None:
        if not self._link.supervised:
            raise Refused("this worker has no supervisor that would start it again; start it by `vqa worker`")
        if not self._inherited.told:
            raise Refused("its supervisor is of a release without this command; restart `vqa worker`")
        if target == self._current:
            return
        if self._engine.engine == "remote":
            raise Refused("its servers choose the model (VQA_REMOTE_URLS)")
        allowed = {self._inherited.own, *self._settings.rollout_targets}
        if target not in allowed:
            raise Refused(
                f"VQA_ROLLOUT_MODELS does not list {target}, and the worker may load "
                f"{', '.join(sorted(map(str, allowed)))}. Set it in the environment of the supervisor and restart that"
            )
        if self._engine.trust_remote_code and target.revision is None and target != self._inherited.own:
            raise Refused(
                f"VQA_TRUST_REMOTE_CODE=1 would run the code of whatever revision of {target} is the latest; "
                "name one in VQA_ROLLOUT_MODELS as MODEL@REVISION"
            )

    def _restart(self, request: Request) -> None:
        if self._sent == request.id:
            return
        if self._sent:
            raise Refused("this worker restarts for another rollout already")
        if not self._link.restart(request.model_dump_json()):
            raise Refused("its supervisor does not read; is it stopped?")
        self._sent = request.id
        log.warning("remote control: rollout: draining; the supervisor starts this card with %s", request.target)
        os.kill(os.getpid(), signal.SIGTERM)


def _refuse(reason: str) -> dict[str, Any]:
    log.warning("remote control: %s is refused: %s", COMMAND, reason)
    return dict(nok(f"{COMMAND} is refused: {reason}"))
