"""`vqa dlq`: list, show, retry and purge dead letters."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from producer.cli.options import AsJson, RedisUrl
from producer.process import NOT_ALL

if TYPE_CHECKING:
    from producer.client.client import Client
    from producer.client.dead_letters import DeadLetter, TimeOrAge

app = typer.Typer(
    name="dlq",
    help="Show, retry or delete jobs that were given up.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_WHEN = "an age (2h, 1d12h) or a date (2026-11-22T10:30Z)"

Reason = Annotated[
    str | None,
    typer.Option(help="worker_lost, attempts_used_up, unsupported_version, malformed or damaged.", metavar="R"),
]
Since = Annotated[str | None, typer.Option(help=f"Given up since: {_WHEN}.", metavar="T")]
Before = Annotated[str | None, typer.Option(help=f"Given up before: {_WHEN}.", metavar="T")]
SomeIds = Annotated[list[str] | None, typer.Argument(metavar="ID", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All dead letters.")]


@app.command("list")
def list_them(
    reason: Reason = None,
    since: Since = None,
    before: Before = None,
    limit: Annotated[int, typer.Option(min=1, help="Most lines to print.")] = 100,
    as_json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """List dead letters, newest first.

    Example: vqa dlq list --reason worker_lost --since 2h
    """
    from producer.cli import show_dead
    from producer.client.client import Client

    with Client() as client:
        _warn_if_full(client)
        # one more, to know whether there are more
        letters = client.dead_letters.list(reason, _parse_time(since), _parse_time(before), limit + 1)
    if letters or not as_json:
        print(show_dead.listed(letters[:limit], as_json) if letters else "no dead letters")
    if len(letters) > limit:
        print(f"vqa: there are more; use --limit {limit * 10}", file=sys.stderr)


@app.command()
def show(
    id: Annotated[str, typer.Argument(metavar="ID", show_default=False)],
    as_json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Show why a job was given up.

    Prints the reason, the attempts, and the job as it was submitted.

    Example: vqa dlq show q1
    """
    from producer.cli import show_dead
    from producer.client.client import Client

    with Client() as client:
        letter = client.dead_letters.get(id)
        if letter is None:
            print(f"vqa: {id} {show_dead.WORDS['unknown']}", file=sys.stderr)
            raise typer.Exit(NOT_ALL)
        job = show_dead.job_of(letter)
        names = {each for each in job.contents() if isinstance(each, str)} if job else set()
        sizes = client.image_sizes(sorted(names))
    print(show_dead.whole(letter, sizes, as_json))


@app.command()
def retry(
    ids: SomeIds = None,
    reason: Reason = None,
    since: Since = None,
    before: Before = None,
    every: All = False,
    redis_url: RedisUrl = None,
) -> None:
    """Reopen dead letters as jobs, with new timeouts. Ends with 3 if one could not be reopened.

    Example: vqa dlq retry --reason worker_lost --since 2h
    """
    from producer.cli import show_dead
    from producer.client.client import Client

    if not (ids or reason or since or before or every):
        raise typer.BadParameter("give ids, --reason, --since, --before or --all")
    with Client() as client:
        letters = _chosen(client, ids, reason, since, before, every)
        verdicts = client.dead_letters.retry(letters)
    print(show_dead.retried(verdicts, one_by_one=bool(ids)))
    raise typer.Exit(0 if set(verdicts.values()) <= {"reopened"} else NOT_ALL)


@app.command()
def purge(
    ids: SomeIds = None,
    reason: Reason = None,
    since: Since = None,
    before: Before = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    redis_url: RedisUrl = None,
) -> None:
    """Delete dead letters: those given, those matching, or all.

    On a terminal it asks for confirmation.

    Example: vqa dlq purge --before 7d
    """
    from producer.client.client import Client

    with Client() as client:
        chosen = _chosen(client, ids, reason, since, before, every=False)
        if chosen and not yes and sys.stdin.isatty():
            typer.confirm(f"Delete {len(chosen)} dead letters?", abort=True)
        count = client.dead_letters.purge(chosen)
    print(f"{count} deleted")
    raise typer.Exit(NOT_ALL if ids and count < len(set(ids)) else 0)


def _chosen(
    client: Client, ids: list[str] | None, reason: str | None, since: str | None, before: str | None, every: bool
) -> list[str]:
    if ids and (reason or since or before or every):
        raise typer.BadParameter("give either ids or --reason, --since, --before, --all")
    if ids:
        return ids
    letters: list[DeadLetter] = client.dead_letters.list(reason, _parse_time(since), _parse_time(before), limit=None)
    return [letter.id for letter in letters]


def _parse_time(text: str | None) -> TimeOrAge | None:
    from producer.client.dead_letters import parse_time

    try:
        return None if text is None else parse_time(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _warn_if_full(client: Client) -> None:
    limit = client.settings.dead_most
    if client.dead_letters.count() >= limit:
        print(
            f"vqa: there are {limit} dead letters, the limit (VQA_DEAD_MOST): each new one deletes the oldest; "
            "retry or purge some",
            file=sys.stderr,
        )
