"""Asks workers to restart, by Celery's remote control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from celery import Celery
from pydantic import ValidationError

from vqa.errors import NotReady
from vqa.rollout import COMMAND, Acceptance, Request

#: for the replies, in seconds; a worker whose threads are all busy takes tenths of a second
_REPLY_S = 15.0

#: kombu takes the number of destinations in place of None
_UNLIMITED = 1_000_000


class _Enough(Exception):
    """Ends the wait for replies."""


class Control:
    """One rollout's commands to workers. Methods raise one of connection.REDIS_ERRORS."""

    def __init__(self, app: Celery, request: Request) -> None:
        self._app = app
        self._request = request

    def check(self, names: Sequence[str]) -> dict[str, Acceptance]:
        """Ask whether each would restart; return what they say. Raises NotReady with all refusals."""
        return self._send(names, check=True)

    def restart(self, name: str) -> None:
        """Let one drain and restart. Raises NotReady if it refuses or says nothing."""
        self._send([name], check=False)

    def answers(self, names: Sequence[str]) -> bool:
        """Return whether at least one of them takes commands, and so jobs, now."""
        return bool(names) and bool(self._broadcast("ping", {}, names, enough=1))

    def _send(self, names: Sequence[str], check: bool) -> dict[str, Acceptance]:
        arguments = {"request": self._request.model_dump(), "check": check}
        said = self._broadcast(COMMAND, arguments, names, enough=len(names))
        accepted, problems = {}, dict[str, list[str]]()
        for name in names:
            try:
                accepted[name] = Acceptance.model_validate(said[name]["ok"])
            except (KeyError, TypeError, ValidationError):
                problems.setdefault(_problem(said.get(name)), []).append(name)
        if problems:
            raise NotReady("; ".join(f"{', '.join(those)}: {problem}" for problem, those in problems.items()))
        return accepted

    def _broadcast(
        self, command: str, arguments: Mapping[str, Any], names: Sequence[str], enough: int
    ) -> dict[str, Any]:
        """Return the replies by name, when there are enough of them, or none has come for _REPLY_S."""
        said: dict[str, Any] = {}

        def note(reply: dict[str, Any]) -> None:
            said.update(reply)
            if len(said) >= enough:
                raise _Enough

        # kombu's own `limit` counts late replies to earlier commands, too
        with suppress(_Enough):
            self._app.control.broadcast(
                command,
                arguments=dict(arguments),
                destination=list(names),
                reply=True,
                timeout=_REPLY_S,
                limit=_UNLIMITED,
                callback=note,
            )
        return said


def _problem(reply: object) -> str:
    if reply is None:
        return f"no reply within {_REPLY_S:.0f} s; it is stopping, stuck, or of a release without this command"
    error = reply.get("error") if isinstance(reply, dict) else None
    return error if isinstance(error, str) else "a reply that is not understood; is it of another release?"
