"""The `vqa` command. What a command needs is imported when it runs, so that `vqa --help` is there at once."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Annotated

import typer

from producer.cli.dead_letters import app as dlq
from producer.cli.options import (
    AsJson,
    Choice,
    Lane,
    LaneName,
    MaxNewTokens,
    Schema,
    Seed,
    Temperature,
    TopP,
    job_fields,
    response_format,
)
from producer.cli.submit import app as bulk
from producer.process import INTERRUPTED, NOT_ALL, TEMPORARY, USAGE, Stopped, stoppable

app = typer.Typer(
    name="vqa",
    help="Ask vision-language models questions about images, through a queue on Redis (VQA_REDIS_URL).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(bulk)
app.add_typer(dlq)

Ids = Annotated[list[str], typer.Argument(metavar="ID...", show_default=False)]


@app.command()
def ask(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image's file, or - for stdin.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    schema: Schema = None,
    choice: Choice = None,
    timeout: Annotated[float | None, typer.Option(min=0.001, help="Seconds until the job is given up.")] = None,
    lane: Lane = LaneName.interactive,
    as_json: AsJson = False,
) -> None:
    """Ask one question about one image and wait for the answer.

    Example: vqa ask cat.jpg "What is on the mat?"
    """
    from producer.client.client import Client

    fields = job_fields(
        lane,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        timeout_s=timeout,
        response_format=response_format(schema, choice),
    )
    with Client() as client:
        answer = client.ask(sys.stdin.buffer if image == "-" else image, question, **fields)
    print(answer.model_dump_json(exclude_none=True) if as_json else answer.text)


@app.command()
def status(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[BATCH|ID...]", show_default=False)] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Of a batch: show it until it is over.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show where a batch or jobs stand; without ids, how many are open and which workers are up.

    Example: vqa status batch_6f2a9c0d1e3b5a7788990011 --watch
    """
    from producer.cli import show
    from producer.cli.show_batch import follow
    from producer.client.batches import is_batch
    from producer.client.client import Client

    if watch and not (ids and len(ids) == 1 and is_batch(ids[0])):
        raise typer.BadParameter("needs one batch", param_hint="--watch")
    with Client() as client:
        if ids and len(ids) == 1 and is_batch(ids[0]):
            raise typer.Exit(follow(client.batches.retrieve(ids[0]), watch, as_json))
        if ids:
            print(show.states(client.states(ids), as_json))
        else:
            print(show.overview(client.counts(), client.workers(), as_json))


@app.command()
def cancel(ids: Annotated[list[str], typer.Argument(metavar="BATCH|ID...", show_default=False)]) -> None:
    """Cancel batches or jobs, waiting or running. Ends with 3 where one was not open.

    Example: vqa cancel batch_6f2a9c0d1e3b5a7788990011
    """
    from producer.client.batches import is_batch
    from producer.client.client import Client

    with Client() as client:
        done = {id: bool(client.batches.retrieve(id).cancel() if is_batch(id) else client.cancel(id)) for id in ids}
    for id, cancelled in done.items():
        print(f"{id} {'cancelled' if cancelled else 'was not open'}")
    raise typer.Exit(0 if all(done.values()) else NOT_ALL)


@app.command()
def doctor(
    repair: Annotated[bool, typer.Option("--repair", help="First do once what the janitor does.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with settings, Redis, workers and jobs, and what to do. Ends with 1 where something is.

    Example: vqa doctor --repair
    """
    from producer.cli.doctor import examine

    raise typer.Exit(examine(repair, as_json))


@app.command()
def schema() -> None:
    """Print the JSON Schemas of job and answer.

    Example: vqa schema > vqa.schema.json
    """
    from producer.cli import show

    print(show.schemas())


@app.command()
def settings(as_json: AsJson = False) -> None:
    """List the VQA_ variables with their defaults and meaning.

    Example: VQA_REDIS_URL=redis://10.0.0.5:6379/0 vqa status
    """
    os.execv(sys.executable, [sys.executable, "-m", "workers.settings_table", *(["--json"] if as_json else [])])


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def worker(context: typer.Context) -> None:
    """Start the workers of this machine; takes the arguments of `python -m workers`.

    Example: vqa worker --help
    """
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "workers", *context.args])


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def tune(context: typer.Context) -> None:
    """Try numbers of slots on this machine with your own images; takes the arguments of `python -m workers.tune`.

    Example: vqa tune --help
    """
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "workers.tune", *context.args])


@app.command()
def demo(exit_after: Annotated[bool, typer.Option("--exit", help="End after the questions.")] = False) -> None:
    """Start everything on this machine with the small model, and ask the example questions.

    Example: vqa demo --exit
    """
    from producer.demo.demo import run_demo

    raise typer.Exit(run_demo(exit_after))


def main() -> None:
    """Run the command; errors are one line on stderr, and the exit status tells them apart."""
    logging.basicConfig(format="vqa: %(message)s", level=logging.WARNING)
    try:
        with stoppable():
            app()
    except Stopped as stopped:
        sys.exit(INTERRUPTED if stopped.number == signal.SIGINT else TEMPORARY)
    except BrokenPipeError:
        # whoever read the answers has gone; Python would complain once more when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        sys.exit(_tell(error))


def _tell(error: Exception) -> int:
    from vqa.errors import QueueFull, QueueUnavailable, SettingsError, VQAError

    if not isinstance(error, VQAError | OSError):
        raise error
    print(f"vqa: {type(error).__name__}: {error}", file=sys.stderr)
    if isinstance(error, SettingsError):
        return USAGE
    return TEMPORARY if isinstance(error, QueueUnavailable | QueueFull) else 1


if __name__ == "__main__":
    main()
