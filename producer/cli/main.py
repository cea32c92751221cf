"""The `vqa` command. Each command imports what it needs when it runs, so that `vqa --help` is fast."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Annotated

import typer

from producer.cli.ask import ask
from producer.cli.dead_letters import app as dlq
from producer.cli.gateway import app as gateway
from producer.cli.keys import app as keys
from producer.cli.metrics import app as metrics
from producer.cli.models import app as models
from producer.cli.options import (
    CONTEXT,
    AsJson,
    RedisUrl,
)
from producer.cli.rollout import app as rollout
from producer.cli.submit import app as bulk
from producer.cli.top import top
from producer.process import INTERRUPTED, NOT_ALL, TEMPORARY, USAGE, Stopped, stoppable

_FIRST_STEPS = """\
vqa asks vision-language models about images, through a queue on Redis.

  vqa demo                                      try everything on this machine
  vqa worker --model Qwen/Qwen3-VL-4B-Instruct  answer jobs with its cards
  vqa ask cat.jpg "What is on the mat?"         ask one question
  vqa submit questions.jsonl -o answers.jsonl   ask many, or resume after a stop
  vqa status                                    show open jobs and workers
  vqa top                                       watch them, batches and errors
  vqa gateway                                   serve OpenAI's API over HTTP

`vqa --help` lists all commands, and `vqa COMMAND --help` explains one.
VQA_REDIS_URL or --redis-url says where Redis is."""

#: of commands that pass all their arguments, --help too, to a module of `workers`
_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app = typer.Typer(name="vqa", context_settings=CONTEXT, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(bulk)
app.add_typer(dlq)
app.add_typer(gateway)
app.add_typer(keys)
app.add_typer(metrics)
app.add_typer(models)
app.add_typer(rollout)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"vqa {version('vqa-queue')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def first_steps(
    context: typer.Context,
    redis_url: RedisUrl = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Ask vision-language models questions about images, through a queue on Redis (VQA_REDIS_URL)."""
    if context.invoked_subcommand is None:
        print(_FIRST_STEPS)


app.command()(ask)
app.command()(top)


@app.command()
def status(
    ids: Annotated[list[str] | None, typer.Argument(metavar="BATCH|ID", show_default=False)] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show a batch until it is over.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="With --watch: print the final state only.")] = False,
    as_json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Show jobs, a batch, or the whole queue.

    Of one job also what happened to it and when. Without ids: how many jobs are open, and which workers are up. Ends
    with 3 if a batch is over and rows of it failed.

    Example: vqa status batch_6f2a9c0d1e3b5a7788990011 --watch
    """
    from producer.cli import show, show_batch, show_timeline
    from producer.client.batches import is_batch
    from producer.client.client import Client

    if watch and not (ids and len(ids) == 1 and is_batch(ids[0])):
        raise typer.BadParameter("needs the id of one batch", param_hint="--watch")
    with Client() as client:
        if ids and len(ids) == 1 and is_batch(ids[0]):
            batch = client.batches.retrieve(ids[0])
            state = show_batch.watch(batch, quiet, as_json) if watch else batch.state()
            if quiet or not watch:
                print(show_batch.batch(state, batch.prediction(state), as_json))
            raise typer.Exit(NOT_ALL if state.status == "failed" or (state.is_over and state.failed) else 0)
        if ids and len(ids) == 1:
            [job] = client.states(ids).values()
            print(show_timeline.job(job, client.timeline(job.id), as_json))
        elif ids:
            print(show.states(client.states(ids), as_json))
        else:
            print(show.overview(client.counts(), client.inbox_length(), client.workers(), as_json))


@app.command()
def cancel(
    ids: Annotated[list[str], typer.Argument(metavar="BATCH|ID", show_default=False)], redis_url: RedisUrl = None
) -> None:
    """Cancel batches or jobs, waiting or running. Ends with 3 if one was not open.

    Example: vqa cancel batch_6f2a9c0d1e3b5a7788990011
    """
    from producer.client.batches import is_batch
    from producer.client.client import Client

    with Client() as client:
        done = {id: bool(client.batches.cancel(id) if is_batch(id) else client.cancel(id)) for id in ids}
    for id, cancelled in done.items():
        print(f"{id} {'cancelled' if cancelled else 'was not open'}")
    raise typer.Exit(0 if all(done.values()) else NOT_ALL)


@app.command()
def doctor(
    repair: Annotated[bool, typer.Option("--repair", help="First run the janitor's repairs once.")] = False,
    as_json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Find what is wrong, and say what to do.

    Checks settings, Redis, workers and jobs. Ends with 1 if something is wrong.

    Example: vqa doctor --repair
    """
    from producer.cli.doctor import examine

    raise typer.Exit(examine(repair, as_json))


@app.command()
def schema() -> None:
    """Print the JSON Schemas of jobs, answers and outcomes.

    Example: vqa schema > vqa.schema.json
    """
    from producer.cli import show

    print(show.schemas())


@app.command()
def settings(as_json: AsJson = False) -> None:
    """List all VQA_ variables with their defaults.

    Example: vqa settings
    """
    _execute("workers.settings_table", ["--json"] if as_json else [])


@app.command(context_settings=_PASS_THROUGH, add_help_option=False)
def worker(context: typer.Context) -> None:
    """Start the workers of this machine, one per card.

    Example: vqa worker --help
    """
    _execute("workers", context.args)


@app.command(context_settings=_PASS_THROUGH, add_help_option=False)
def tune(context: typer.Context) -> None:
    """Measure which number of slots suits your images.

    Example: vqa tune --help
    """
    _execute("workers.tune", context.args)


def _execute(module: str, arguments: list[str]) -> None:
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


@app.command()
def demo(
    exit_after: Annotated[bool, typer.Option("--exit", help="End after the questions.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the answers and errors only.")] = False,
    redis_url: RedisUrl = None,
) -> None:
    """Try everything on this machine.

    Starts Redis, a worker with a small model, and Flower, and asks the example questions.

    Example: vqa demo --exit
    """
    from producer.demo.demo import run_demo

    raise typer.Exit(run_demo(exit_after, quiet))


def main() -> None:
    """Run the command. An error is one line on stderr, and the exit status tells errors apart."""
    logging.basicConfig(format="vqa: %(message)s", level=logging.WARNING)
    try:
        with stoppable():
            app(prog_name="vqa")
    except Stopped as stopped:
        sys.exit(INTERRUPTED if stopped.number == signal.SIGINT else TEMPORARY)
    except BrokenPipeError:
        # the reader of stdout has ended; without this Python complains when it flushes stdout at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        sys.exit(_report(error))


def _report(error: Exception) -> int:
    """Print an expected error and return the exit status; raise any other."""
    from vqa.errors import ImageUnavailable, QueueFull, QueueUnavailable, SettingsError, VQAError

    if not isinstance(error, VQAError | OSError):
        raise error
    print(f"vqa: {type(error).__name__}: {error}", file=sys.stderr)
    if isinstance(error, SettingsError):
        return USAGE
    return TEMPORARY if isinstance(error, QueueUnavailable | QueueFull | ImageUnavailable) else 1


if __name__ == "__main__":
    main()
