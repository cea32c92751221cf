"""`vqa gateway`: serve the queue over HTTP."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from producer.cli.options import CONTEXT, RedisUrl
from producer.process import USAGE

app = typer.Typer(context_settings=CONTEXT, rich_markup_mode=None)

#: what the extra brings and nothing else does
_PACKAGES = ("fastapi", "uvicorn", "httptools", "uvloop")


@app.command()
def gateway(
    address: Annotated[str | None, typer.Option(help="Address to listen on, instead of VQA_GATEWAY_ADDRESS.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Port, instead of VQA_GATEWAY_PORT; 0 takes a free one.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, max=64, help="Processes on the port, instead of VQA_GATEWAY_PROCESSES.")
    ] = None,
    open: Annotated[
        bool, typer.Option("--open", help="Serve other machines without API keys, as VQA_GATEWAY_OPEN=1 does.")
    ] = False,
    redis_url: RedisUrl = None,
) -> None:
    """Serve OpenAI's API over HTTP, in front of the queue.

    Example: vqa gateway --address 0.0.0.0 --processes 2
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        print(f"vqa: not installed: {', '.join(missing)}; pip install 'vqa-queue[gateway]'", file=sys.stderr)
        raise typer.Exit(USAGE)
    given = {"ADDRESS": address, "PORT": port, "PROCESSES": processes, "OPEN": "1" if open else None}
    # the environment, because the processes of one gateway inherit it
    os.environ.update({f"VQA_GATEWAY_{name}": str(value) for name, value in given.items() if value is not None})

    from producer.gateway.process.run import run_gateway

    raise typer.Exit(run_gateway())
