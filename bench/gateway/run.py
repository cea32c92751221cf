"""What the HTTP gateway adds, holds and delivers: `python -m bench gateway`, one worker, on the loopback interface."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

import uvloop

from bench.figures import Row
from bench.gateway import overhead, rates, streams, waiters
from bench.gateway.overhead import Load
from bench.gateway.stage import Stage, stage
from bench.stage import TINY
from producer.gateway.process.listening import raise_file_limit

_SLOTS = 64

#: with images the client, Redis, the gateway and the worker, which decodes them, share the cores
_TEXT, _IMAGE = Load(100), Load(25)


def rows() -> list[Row]:
    """Start the processes and measure."""
    raise_file_limit()
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "journal"
        with _echo() as one:
            found = uvloop.run(_one(one))
        with _echo(VQA_ECHO_JOURNAL=str(journal)) as journaled:
            found += uvloop.run(streams.rows(journaled, journal))
        with _echo(processes=2) as two:
            found.append(uvloop.run(rates.echo_row(two)))
    with stage(VQA_MODEL=str(TINY), VQA_SLOTS="16") as tiny:
        return found + uvloop.run(rates.bundled_rows(tiny))


def _echo(processes: int = 1, **variables: str) -> AbstractContextManager[Stage]:
    return stage(processes, VQA_ENGINE="echo", VQA_SLOTS=str(_SLOTS), **variables)


async def _one(at: Stage) -> list[Row]:
    return [
        *await overhead.rows(at, _TEXT, _IMAGE),
        *await waiters.rows(at, _SLOTS),
        await rates.echo_row(at),
    ]
