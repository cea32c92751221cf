"""What Flower's pages show of a task. No I/O.

Flower escapes whatever this returns, so that pages cannot link to batches and dead letters: they show the commands.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

#: of the list of tasks, by Flower's names; all tasks have the same name
COLUMNS = "uuid,state,kwargs,received,started,runtime,worker"

#: errors of jobs that are kept as dead letters
_GIVEN_UP = ("JobGivenUp", "UnsupportedVersion")


def format_task(task: Any) -> Any:
    """Change Flower's copy of a task: its keyword arguments say what the job is, its result how to see more."""
    about = _about(getattr(task, "kwargs", None))
    # a message that no thread has begun yet tells its list alone
    task.kwargs = ", ".join(_words(about)) or (getattr(task, "routing_key", None) or "")
    task.result = "\n".join(_commands(str(task.uuid), about, str(getattr(task, "exception", None) or "")))
    return task


def _about(kwargs: object) -> Mapping[str, Any]:
    """Return what the worker has told of the job (workers/jobs/task_events.py)."""
    with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        about = ast.literal_eval(str(kwargs))
        return about if isinstance(about, dict) else {}
    return {}


def _words(about: Mapping[str, Any]) -> Iterator[str]:
    for name, value in about.items():
        if name == "lane":
            yield str(value)
        elif name == "images":
            yield f"{value} image" if value == 1 else f"{value} images"
        elif name != "attempt":
            yield f"{name} {value}"
        elif value != 1:
            yield f"attempt {value}"


def _commands(id: str, about: Mapping[str, Any], exception: str) -> Iterator[str]:
    yield f"vqa status {id}"
    if exception.startswith(_GIVEN_UP):
        yield f"vqa dlq show {id}"
    if batch := about.get("batch"):
        yield f"vqa status {batch}"
