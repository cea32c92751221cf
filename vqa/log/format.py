"""How log lines are written: as text for people, or as JSON for programs (VQA_LOG_FORMAT)."""

from __future__ import annotations

import json
import logging
import socket
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from vqa.log.context import log_fields
from vqa.settings import PREFIX, Settings

#: what a line's own `extra` may add; any other attribute of a record might hold what a user has written
_EXTRAS = ("job_id", "tenant", "attempt", "trace_id", "request_id")


class LogSettings(Settings):
    model_config = SettingsConfigDict(env_prefix=f"{PREFIX}LOG_")

    format: Literal["text", "json"] = Field(
        default="text",
        description="how workers and gateways log: text, or json, one object a line with time, level, logger, message, "
        "and where known worker, job_id, tenant, attempt, request_id and trace_id",
    )


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON. A traceback is a text in it: lines of code, and the error's own message."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_entry(record), ensure_ascii=False, default=str)


def _entry(record: logging.LogRecord) -> dict[str, Any]:
    own = {name: getattr(record, name) for name in _EXTRAS if hasattr(record, name)}
    entry = {
        "time": iso_time(record.created),
        "level": record.levelname,
        "logger": record.name,
        "message": record.getMessage(),
        **log_fields(),
        **_of_celery(record),
        **own,
    }
    if record.exc_info and record.exc_info[0] is not None:
        entry["exception"] = record.exc_info[0].__name__
        entry["traceback"] = logging.Formatter().formatException(record.exc_info)
    return entry


def _of_celery(record: logging.LogRecord) -> dict[str, Any]:
    """Return the job that a line of Celery's about a task is about."""
    data = getattr(record, "data", None)
    return {"job_id": data["id"]} if isinstance(data, dict) and isinstance(data.get("id"), str) else {}


def iso_time(seconds: float) -> str:
    """Return a time since the epoch as ISO 8601 in UTC, in ms."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def set_up_root(level: int | str, stream: TextIO | None = None) -> None:
    """Log to standard error, or to a stream, in the format of VQA_LOG_FORMAT. Raises SettingsError."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)


def is_json() -> bool:
    """Return whether this process logs JSON, once `set_up_root` was called."""
    return any(isinstance(each.formatter, JsonFormatter) for each in logging.getLogger().handlers)


def _formatter() -> logging.Formatter:
    if LogSettings().format == "json":
        return JsonFormatter()
    return logging.Formatter(f"%(asctime)s %(levelname)s {socket.gethostname()} %(name)s: %(message)s")
