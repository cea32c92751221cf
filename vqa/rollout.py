"""What `vqa rollout` and workers agree on: the command and its reply, and what a worker's entry says of its process."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, StringConstraints, ValidationError, field_validator

from vqa.frozen_model import Frozen

#: name of the remote control command
COMMAND = "rollout"

#: the key of a `ProcessInfo` in what a worker tells about itself
PROCESS = "process"

#: the longest that a new model may be watched, in seconds
WATCH_MOST_S = 3600.0

#: characters of the reason for which a model failed to start
REASON_CHARS = 500

_MODEL = re.compile(r"[^\s,][^,]{0,511}")

#: a commit, tag or branch of a hub
_REVISION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._/+-]{0,199}")


class Target(Frozen):
    """A model, as VQA_MODEL and VQA_REVISION name it."""

    model: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `MODEL` or `MODEL@REVISION`; a path, with a leading / or ., has no revision. Raises ValueError."""
        model, at, revision = text.rpartition("@")
        if not at or text.startswith(("/", ".")):
            return cls(model=text).checked()
        return cls(model=model, revision=revision).checked()

    def checked(self) -> Self:
        """Return this if model and revision look like those of a hub or a path. Raises ValueError."""
        # of what cannot be printed, terminals obey some characters
        if _MODEL.fullmatch(self.model) is None or "://" in self.model or not self.model.isprintable():
            raise ValueError("a model is a name on a hub or a local folder, without commas and control characters")
        if self.revision is not None and _REVISION.fullmatch(self.revision) is None:
            raise ValueError("a revision is a commit, tag or branch of a hub: letters, digits and ._/+-")
        return self

    def __str__(self) -> str:
        return self.model if self.revision is None else f"{self.model}@{self.revision}"


class Request(Frozen):
    """Restart with this model. A worker that is asked twice with the same id restarts once."""

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    target: Target
    #: a process that ends within so many seconds after it was ready gives way to the model before
    watch_s: Annotated[float, Field(ge=0, le=WATCH_MOST_S)] = 0.0

    @field_validator("target")
    @classmethod
    def _is_checked(cls, target: Target) -> Target:
        return target.checked()


class Acceptance(Frozen):
    """A worker's reply: it restarts, or would."""

    model_config = ConfigDict(extra="ignore")

    #: how long it may take in all, with a return to the model before
    limit_s: float
    #: the model that its supervisor's environment names
    own: Target


class ProcessInfo(Frozen):
    """A worker's process, in its entry in the list of workers."""

    model_config = ConfigDict(extra="ignore")

    #: time of its start, in seconds, on its machine's clock; tells it from others under the same name
    started: float
    target: Target
    #: id of the last rollout for which its supervisor has restarted it
    rollout: str = ""
    #: why it does not run that rollout's model but the one before: it failed to start, or ended while it was watched
    failed: str = Field(default="", max_length=REASON_CHARS)

    @classmethod
    def from_about(cls, about: Mapping[str, Any]) -> Self | None:
        """Return what a worker tells of its process; None if it is of a release that does not."""
        try:
            return cls.model_validate(about.get(PROCESS))
        except ValidationError:
            return None
