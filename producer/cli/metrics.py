"""`vqa metrics`: show the queue's metrics to Prometheus."""

from __future__ import annotations

import logging
import threading
from typing import Annotated

import typer

from producer.cli.options import CONTEXT, RedisUrl

app = typer.Typer(context_settings=CONTEXT, rich_markup_mode=None)


@app.command()
def metrics(
    address: Annotated[
        str,
        typer.Option(metavar="ADDRESS:PORT", help="Where to listen; :9109 for all addresses, port 0 for a free one."),
    ] = "127.0.0.1:9109",
    redis_url: RedisUrl = None,
) -> None:
    """Show the queue's metrics to Prometheus, until Ctrl-C.

    Depth and age by lane, dead letters and workers, read from Redis at each scrape. One for each queue is enough.
    Workers show their own where VQA_METRICS_ADDRESS is set; docs/metrics.md lists all.

    Example: vqa metrics --address :9109
    """
    from vqa.metrics.server import ListenAddress, MetricsServer, require_package

    try:
        parsed = ListenAddress.parse(address)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--address") from None
    require_package("vqa metrics")
    from producer.metrics.collector import queue_registry
    from vqa.settings import QueueSettings

    logging.getLogger("vqa.redis.outage").setLevel(logging.INFO)
    server = MetricsServer(parsed, queue_registry(QueueSettings()), "--address")
    try:
        print(f"metrics of the queue: http://{server.address}/metrics", flush=True)
        threading.Event().wait()
    finally:
        server.stop()
