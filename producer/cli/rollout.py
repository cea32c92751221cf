"""`vqa rollout`: restart the workers one after another, with another model or the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from producer.cli.options import CONTEXT, RedisUrl

if TYPE_CHECKING:
    from producer.rollout.cards import Card
    from vqa.rollout import Target

app = typer.Typer(context_settings=CONTEXT, rich_markup_mode=None)


@app.command()
def rollout(
    model: Annotated[str, typer.Option(help="Hub name or local folder; with the present one all cards restart.")],
    revision: Annotated[str | None, typer.Option(help="The model's commit or tag on the hub.")] = None,
    replaces: Annotated[
        str | None, typer.Option("--from", metavar="MODEL", help="Restart only workers with this model.")
    ] = None,
    workers: Annotated[
        list[str] | None, typer.Option("--worker", metavar="NAME", help="Restart only this worker; repeatable.")
    ] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Most workers that restart at the same time.")] = 1,
    allow_gap: Annotated[
        bool, typer.Option("--allow-gap", help="Go on if jobs have to wait, as no other worker answers them.")
    ] = False,
    watch_s: Annotated[
        float,
        typer.Option(
            "--watch", min=0, max=3600, metavar="SECONDS", help="Go back if a worker ends so soon after it is ready."
        ),
    ] = 30.0,
    redis_url: RedisUrl = None,
) -> None:
    """Restart the workers one after another, with another model or the same.

    Each finishes its jobs, and its supervisor starts it again; the next one follows once it has been ready for
    --watch seconds. If the model fails to start, or the worker ends within that time, as when its first jobs crash the
    engine, that worker gets the model before, and the rollout ends. Workers that have the model already are left out,
    unless all have it. Ctrl-C leaves the other workers as they are; the same command goes on with them.

    Workers accept models that their VQA_ROLLOUT_MODELS lists. VQA_REDIS_URL must name the user of workers, or the
    operator.

    Example: vqa rollout --model Qwen/Qwen3-VL-8B-Instruct
    """
    from producer.cli.show_rollout import end, progress, state_at_the_end
    from producer.client.outage import redis_errors
    from producer.rollout.cards import choose
    from producer.rollout.named_jobs import open_jobs, replaced_names
    from producer.rollout.rollout import Rollout
    from vqa.celery import make_app
    from vqa.ledger.ledger import Ledger
    from vqa.redis.connection import connect
    from vqa.rollout import Target
    from vqa.settings import QueueSettings

    settings = QueueSettings()
    try:
        target = Target(model=model, revision=revision).checked()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--model, --revision") from None
    with redis_errors(settings), connect(settings) as redis, make_app(settings) as celery_app:
        run = Rollout(redis, celery_app, settings.lease_s, target, watch_s)
        with run.alone():
            listed = Ledger(redis).workers(settings.lease_s)
            try:
                cards, others = choose(listed, target, workers or (), replaces)
            except ValueError as error:
                raise typer.BadParameter(str(error)) from None
            named = open_jobs(redis, settings, replaced_names(listed, cards, target))
            if not allow_gap:
                _check_gap(cards, others, at_once)
                _check_named(named, target)
            run.check(cards)
            with progress(len(cards), run.request) as show, state_at_the_end(cards, target):
                run.run(cards, others, at_once, allow_gap, show)
    print("\n".join(end(cards, run.own.values(), named, target)))


def _check_named(named: Mapping[str, int], target: Target) -> None:
    if any(named.values()):
        said = ", ".join(f"{name} ({count:,})" for name, count in named.items() if count)
        raise typer.BadParameter(
            f"open jobs name {said}, and {target} would not answer them: let them end first, give the workers the name "
            "by VQA_SERVED_NAME, or give --allow-gap, and they wait until their deadlines"
        )


def _check_gap(cards: Sequence[Card], others: Sequence[str], at_once: int) -> None:
    up = len(cards) + len(others)
    if up == 1:
        raise typer.BadParameter(
            f"no worker but {cards[0].name} answers these jobs, which would wait while it restarts: start another one "
            "first, or give --allow-gap"
        )
    if up <= at_once:
        raise typer.BadParameter(
            f"there are {up} workers, and jobs would wait while all restart: give a lower number, or --allow-gap",
            param_hint="--at-once",
        )
