"""`vqa models`: the models that are served, and the canaries among them."""

from __future__ import annotations

from typing import Annotated

import typer

from producer.cli.options import CONTEXT, AsJson, RedisUrl

app = typer.Typer(
    name="models",
    help="Show the models that jobs may name, or send a share of one's jobs to another.",
    invoke_without_command=True,
    context_settings=CONTEXT,
    rich_markup_mode=None,
)


@app.callback()
def models(context: typer.Context, as_json: AsJson = False, redis_url: RedisUrl = None) -> None:
    """Show the models that jobs may name: their workers, open jobs and canaries.

    A model without a worker that is up stays listed for VQA_MODEL_KEEP_S; its jobs wait.

    Example: vqa models --json
    """
    if context.invoked_subcommand is not None:
        return
    from producer.cli import show_models
    from producer.client.client import Client

    with Client() as client:
        print(show_models.models(client.models.list(), as_json))


@app.command()
def canary(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Model of which a share of the jobs is sent elsewhere.")],
    new: Annotated[str | None, typer.Argument(metavar="NEW", help="Model that gets them.")] = None,
    percent: Annotated[float | None, typer.Argument(min=0, max=100, metavar="PERCENT", help="The share.")] = None,
    off: Annotated[bool, typer.Option("--off", help="Send all new jobs to NAME again.")] = False,
    redis_url: RedisUrl = None,
) -> None:
    """Send PERCENT of the new jobs that name NAME to NEW, as long as a worker of NEW is up.

    Which jobs follows from their ids, so that a job that is sent again goes the same way. Answers name the model that
    answered. Jobs that are open already stay where they are. Once no worker of NEW is up, those of its share return to
    NAME.

    Example: vqa models canary chat chat-next 5

    Example: vqa models canary chat --off
    """
    from producer.client.client import Client

    if off != (new is None and percent is None) or (not off and percent is None):
        raise typer.BadParameter("give NEW and PERCENT, or --off")
    with Client() as client:
        if new is None or percent is None:
            removed = client.models.remove_canary(name)
            print(f"{name}: all new jobs stay with it" if removed else f"{name} has no canary")
            return
        client.models.set_canary(name, new, percent)
    print(f"{name}: {percent:g} % of new jobs go to {new}")
