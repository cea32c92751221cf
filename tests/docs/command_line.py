"""The real command line parser of `vqa`, without running anything."""

from __future__ import annotations

import typer

from producer.cli.main import app
from workers.__main__ import app as worker_app
from workers.tune.__main__ import app as tune_app

#: of the Click that Typer uses: newer ones bring their own
UsageError = typer.BadParameter.__bases__[0]

_ROOT = typer.main.get_command(app)
#: commands that pass all their arguments on
_PASSED_ON = {"worker": typer.main.get_command(worker_app), "tune": typer.main.get_command(tune_app)}


def check(arguments: list[str]) -> None:
    """Raise UsageError for a command or an option that does not exist, or an option without its value."""
    command, context = _ROOT, None
    while True:
        context = typer.Context(command, info_name=command.name, parent=context, **command.context_settings)
        _, rest, _ = command.make_parser(context).parse_args(list(arguments))
        commands = getattr(command, "commands", {})
        if not commands or not rest:
            return
        name, *arguments = rest
        passed_on = _PASSED_ON.get(name) if command is _ROOT else None
        if name not in commands:
            raise UsageError(f"there is no command {name}")
        command = passed_on or commands[name]
