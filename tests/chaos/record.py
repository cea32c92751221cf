"""Files with a line of JSON for each event of a producer; a killed producer loses none of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vqa.answer import Answer
from vqa.errors import VQAError
from vqa.results import Outcome


class Record:
    """Appends events; each line is one write, so a killed writer leaves only whole lines."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)

    def close(self) -> None:
        os.close(self._file)

    def add(self, event: str, id: str, **more: Any) -> None:
        """Record that `event` happened to the job now."""
        line = {"event": event, "id": id, "at": round(time.monotonic(), 4), **more}
        os.write(self._file, json.dumps(line).encode() + b"\n")


@dataclass(frozen=True)
class Ending:
    """How a job ended, in a form that can be compared."""

    #: `answered`, or the error's class
    name: str
    #: the answer's text; an error's message
    text: str
    attempts: int
    #: the id that an answer carries
    id: str = ""

    @classmethod
    def from_outcome(cls, outcome: Outcome) -> Ending:
        if isinstance(outcome, Answer):
            return cls("answered", outcome.text, outcome.attempt, outcome.id)
        assert isinstance(outcome, VQAError)
        return cls(type(outcome).__name__, str(outcome), outcome.attempts)


@dataclass
class History:
    """One job from its producer's view."""

    id: str
    kind: str = ""
    #: the expected answer
    expect: str = ""
    #: the client's call returned, so the job must not be lost
    accepted: bool = False
    #: a Celery app's message was sent; it becomes a job when a worker reads it
    sent: bool = False
    #: result of the call to cancel; None if it raised or was not called
    cancelled: bool | None = None
    asked_to_cancel: bool = False
    #: with monotonic times
    endings: list[tuple[float, Ending]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def apply(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        name = event["event"]
        if name == "intent":
            self.kind, self.expect = event["kind"], event["expect"]
        elif name in ("accepted", "found"):
            # found: the call raised, or it was a message, and the ledger has the job anyway
            self.accepted = True
        elif name == "sent":
            self.sent = True
        elif name == "cancel":
            self.asked_to_cancel = True
        elif name == "cancelled":
            self.cancelled = event["said"]
        elif name == "ended":
            self.endings.append((event["at"], Ending(**event["ending"])))


def read(paths: Iterable[Path]) -> dict[str, History]:
    """Return the history of each job in these files."""
    histories: dict[str, History] = {}
    for path in paths:
        for line in path.read_text().splitlines():
            event = json.loads(line)
            histories.setdefault(event["id"], History(event["id"])).apply(event)
    return histories
