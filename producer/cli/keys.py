"""`vqa keys`: create, list, show and revoke API keys of the gateway."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from producer.cli.options import AsJson, LaneName, RedisUrl
from producer.process import NOT_ALL

if TYPE_CHECKING:
    from producer.gateway.access.keys import Keys

app = typer.Typer(
    name="keys",
    help="Manage API keys of the gateway.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_ABOUT_TENANT = (
    "Keys of one tenant see the same jobs, images, files and batches. By default a key has a tenant of its own."
)

Limit = Annotated[int | None, typer.Option(min=1, metavar="N", show_default="no limit")]
KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `vqa keys list` shows it.")]


@app.command()
def create(
    name: Annotated[str, typer.Option(metavar="NAME", help="Who or what uses the key; need not be unique.")],
    tenant: Annotated[str | None, typer.Option(help=_ABOUT_TENANT, metavar="T")] = None,
    lane: Annotated[list[LaneName] | None, typer.Option(help="Allowed lane; repeatable. By default both.")] = None,
    requests_per_minute: Limit = None,
    requests_per_day: Limit = None,
    tokens_per_minute: Limit = None,
    tokens_per_day: Limit = None,
    in_flight: Annotated[
        int | None, typer.Option(min=1, max=10_000, metavar="N", show_default="no limit", help="Open jobs at once.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="End: an age from now (90d) or a date (2027-01-31).", metavar="T")
    ] = None,
    as_json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Create a key and print it: it cannot be shown again.

    Tokens are those of prompts and answers. Batches count as one request, and their jobs not as in flight.

    Example: vqa keys create --name shop --requests-per-minute 600 --tokens-per-day 5000000 --expires 90d
    """
    from pydantic import ValidationError

    from producer.cli import show_keys
    from producer.gateway.access.caller import Allowance

    end = _parse_end(expires)
    allowance = Allowance(requests_per_minute, requests_per_day, tokens_per_minute, tokens_per_day, in_flight)
    lanes = {"lanes": tuple(dict.fromkeys(each.value for each in lane))} if lane else {}
    with _keys() as keys:
        try:
            key, record = keys.create(name, tenant=tenant, allowance=allowance, expires=end, **lanes)
        except ValidationError as error:
            [*_, field] = error.errors()[0]["loc"]
            raise typer.BadParameter(error.errors()[0]["msg"], param_hint=f"--{field}") from None
    print(show_keys.created(key, record, as_json))


@app.command("list")
def list_them(as_json: AsJson = False, redis_url: RedisUrl = None) -> None:
    """List all keys, the oldest first.

    Example: vqa keys list --json
    """
    from producer.cli import show_keys

    with _keys() as keys:
        records = keys.list()
    if records or not as_json:
        print(show_keys.listed(records, as_json) if records else "no API keys")


@app.command()
def show(
    id: KeyId,
    secret: Annotated[
        bool, typer.Option("--webhook-secret", help="Print only the secret that signs webhooks.")
    ] = False,
    as_json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Show a key's tenant, lanes and limits.

    Example: vqa keys show key_5f2a90c1d45e
    """
    from producer.cli import show_keys

    with _keys() as keys:
        record = keys.get(id)
    if record is None:
        _unknown(id)
    print(record.webhook_secret if secret else show_keys.whole(record, as_json))


@app.command()
def revoke(
    ids: Annotated[list[str], typer.Argument(metavar="ID", show_default=False)], redis_url: RedisUrl = None
) -> None:
    """Revoke keys for good; within two seconds no gateway accepts them. Ends with 3 if one is unknown.

    Jobs that were submitted with a key go on.

    Example: vqa keys revoke key_5f2a90c1d45e
    """
    with _keys() as keys:
        found = {id: keys.revoke(id) for id in ids}
    for id, record in found.items():
        print(f"{id} {'revoked' if record else 'is unknown'}")
    raise typer.Exit(0 if all(found.values()) else NOT_ALL)


@contextmanager
def _keys() -> Iterator[Keys]:
    """Yield the keys. Raises QueueUnavailable."""
    from producer.client.outage import redis_errors
    from producer.gateway.access.keys import Keys
    from vqa.redis.connection import connect
    from vqa.settings import QueueSettings

    settings = QueueSettings()
    with connect(settings) as redis, redis_errors(settings):
        yield Keys(redis)


def _parse_end(text: str | None) -> datetime | None:
    from producer.client.dead_letters import parse_time

    if text is None:
        return None
    try:
        time = parse_time(text)
        end = datetime.now(UTC).replace(microsecond=0) + time if isinstance(time, timedelta) else time
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(str(error), param_hint="--expires") from None
    if end <= datetime.now(UTC):
        raise typer.BadParameter("this is past", param_hint="--expires")
    return end


def _unknown(id: str) -> NoReturn:
    print(f"vqa: {id} is unknown; `vqa keys list` shows all keys", file=sys.stderr)
    raise typer.Exit(NOT_ALL)
