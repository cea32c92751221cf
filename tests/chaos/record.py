"""What producers did and heard, in files of one JSON line an event: a killed producer loses none of it."""

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
    """Appends events; each line is one write, so that a file has whole lines whenever its writer is killed."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)

    def close(self) -> None:
        """Write no more."""
        os.close(self._file)

    def add(self, event: str, id: str, **more: Any) -> None:
        """`event` happened to the job, now."""
        line = {"event": event, "id": id, "at": round(time.monotonic(), 4), **more}
        os.write(self._file, json.dumps(line).encode() + b"\n")


@dataclass(frozen=True)
class Ending:
    """How a job ended, as far as a comparison of two readings needs it."""

    #: `answered`, or the error's class
    name: str
    #: the answer's text; an error's message
    text: str
    attempts: int
    #: the id that an answer carries
    id: str = ""

    @classmethod
    def of(cls, outcome: Outcome) -> Ending:
        """From what a client returned."""
        if isinstance(outcome, Answer):
            return cls("answered", outcome.text, outcome.attempt, outcome.id)
        assert isinstance(outcome, VQAError)
        return cls(type(outcome).__name__, str(outcome), outcome.attempts)


@dataclass
class History:
    """One job as its producer saw it."""

    id: str
    kind: str = ""
    #: the answer that it must get
    expect: str = ""
    #: a client's call returned: the job is ours to lose no more
    accepted: bool = False
    #: a Celery app's message was sent: a job only once a worker has read it
    sent: bool = False
    #: what the call to cancel said; None where it raised, or nobody asked
    cancelled: bool | None = None
    asked_to_cancel: bool = False
    #: at monotonic times
    endings: list[tuple[float, Ending]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def note(self, event: dict[str, Any]) -> None:
        """Fold one event in."""
        self.events.append(event)
        name = event["event"]
        if name == "intent":
            self.kind, self.expect = event["kind"], event["expect"]
        elif name in ("accepted", "found"):
            # found: the call raised, or it was a message, and the ledger has it after all
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
    """All jobs of these records."""
    histories: dict[str, History] = {}
    for path in paths:
        for line in path.read_text().splitlines():
            event = json.loads(line)
            histories.setdefault(event["id"], History(event["id"])).note(event)
    return histories
