"""`vqa top`: a live view of workers, lanes, batches and errors."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from producer.cli.options import RedisUrl

if TYPE_CHECKING:
    from rich.console import Console

    from producer.monitor.queue_reader import QueueReader
    from vqa.settings import QueueSettings

#: seconds for a call to Redis while there is a picture to show: it says soon that Redis is away
_TIMEOUT_S = 2.0
#: lines of a frame besides its tables' rows: headings, empty lines, errors
_LINES = 14


def top(
    interval: Annotated[float, typer.Option(min=0.2, max=3600, metavar="S", help="Seconds between refreshes.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame; the default unless on a terminal.")] = False,
    redis_url: RedisUrl = None,
) -> None:
    """Watch workers, lanes, batches with their predicted ends, and errors, until Ctrl-C.

    While Redis is away, it says so and goes on when it is back. Slots and answers of a worker are as it last reported
    them, up to VQA_LEASE_S / 3 ago.

    Example: vqa top

    Example: watch -n 60 vqa top --once
    """
    from rich.console import Console

    from producer.monitor.queue_reader import QueueReader
    from vqa.redis.connection import connect
    from vqa.settings import QueueSettings

    console, settings = Console(), QueueSettings()
    live = console.is_terminal and not once
    timeout_s = min(settings.redis_timeout_s, _TIMEOUT_S)
    short = settings.model_copy(update={"redis_timeout_s": timeout_s}) if live else settings
    with connect(short, 0 if live else None) as redis:
        reader = QueueReader(redis, settings.lease_s)
        if live:
            _watch(reader, console, settings, interval)
        else:
            _print(reader, console, settings)


def _print(reader: QueueReader, console: Console, settings: QueueSettings) -> None:
    """Print one frame. Raises QueueUnavailable."""
    from producer.cli.show_top import frame
    from vqa.errors import QueueUnavailable
    from vqa.redis.connection import REDIS_ERRORS
    from vqa.redis.error_replies import describe

    try:
        view = reader.first()
    except REDIS_ERRORS as error:
        said = f"{settings.address.where} does not answer ({describe(error)}); check that it runs and that"
        raise QueueUnavailable(f"{said} VQA_REDIS_URL names it") from None
    if not console.is_terminal:
        # lines of a file or a pipe are not cut
        console.width = 200
    with console.capture() as printed:
        console.print(frame(view, most=1000))
    print("\n".join(map(str.rstrip, printed.get().splitlines())), flush=True)


def _watch(reader: QueueReader, console: Console, settings: QueueSettings, interval_s: float) -> None:
    from rich.console import Group, RenderableType
    from rich.live import Live
    from rich.text import Text

    from producer.cli.show_top import frame
    from vqa.redis.connection import REDIS_ERRORS
    from vqa.redis.error_replies import describe

    shown: RenderableType = Text("")
    read, since = reader.first, None
    # the terminal's other screen, which gives back what was there before
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            started = time.monotonic()
            try:
                view = read()
                read, since = reader.read, None
                rows = max(3, (console.height - _LINES) // 3)
                live.update(shown := frame(view, rows), refresh=True)
            except REDIS_ERRORS as error:
                since = since or started
                where = f"{settings.address.where} does not answer for {started - since:.0f} s ({describe(error)})"
                away = Text(f"{where}: VQA_REDIS_URL; trying again, below is what was last seen\n", style="bold red")
                live.update(Group(away, shown), refresh=True)
            time.sleep(max(0.0, started + interval_s - time.monotonic()))
