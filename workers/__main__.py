"""`python -m workers`, which `vqa worker` executes: the supervisor of this machine's workers."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def worker(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="Hub name or local folder.")] = None,
    revision: Annotated[str | None, typer.Option(help="The model's commit or tag on the hub.")] = None,
    cards: Annotated[
        str | None, typer.Option(help="As 0,1, or 0+1 for one model on both; all by default; cpu for none.")
    ] = None,
    slots: Annotated[
        str | None, typer.Option(help="Concurrent jobs per card: 16, or 0=16,1=8; from free memory by default.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="auto, continuous, pipeline or echo.")] = None,
    replicas: Annotated[str | None, typer.Option(help="Loaded pipelines per card, for small models.")] = None,
    microbatch: Annotated[str | None, typer.Option(help="Most prompts that a pipeline runs together.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, float16 or bfloat16.")] = None,
    quant: Annotated[str | None, typer.Option(help="fp8, int8 or int4, for smaller cards; none by default.")] = None,
    served_name: Annotated[
        str | None, typer.Option(help="Names, separated by commas, under which jobs may ask for the model.")
    ] = None,
    redis_url: Annotated[str | None, typer.Option(metavar="URL", help="Redis with the queue.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Node name in place of card0, ...: two supervisors on one host need two.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Log warnings and errors only.")] = False,
) -> None:
    """Answer jobs: one worker process per card, each with one loaded model and a fixed number of slots.

    Every option is also a variable, VQA_MODEL and so on; the option wins. `vqa settings` lists all variables. Ctrl-C or
    SIGTERM drains: running jobs are finished, and the others go back to the queue.

    Example: vqa worker --model Qwen/Qwen3-VL-30B-A3B-Instruct --cards 0,1 --slots 16
    """
    from vqa.settings import PREFIX

    # worker processes inherit the environment
    options = {key: value for key, value in context.params.items() if key not in ("name", "quiet")}
    os.environ.update({PREFIX + key.upper(): value for key, value in options.items() if value is not None})
    if quiet:
        os.environ[PREFIX + "LOG_LEVEL"] = "WARNING"
    raise typer.Exit(_supervise(name))


def _supervise(name: str | None) -> int:
    """Check the settings and run the supervisor; return the exit status."""
    from vqa.celery import make_app
    from vqa.errors import NotReady, SettingsError
    from vqa.log.format import LogSettings
    from vqa.log.output import protect_output
    from vqa.metrics.server import require_package
    from vqa.redis.connection import connect
    from vqa.settings import QueueSettings
    from vqa.tracing.active import start_tracing
    from workers.cards import requested_cards
    from workers.engine.echo.settings import EchoSettings
    from workers.engine.settings import EngineSettings
    from workers.filter.lists import Lists
    from workers.filter.settings import FilterSettings
    from workers.log import set_up_logging
    from workers.process.janitor import Janitor
    from workers.process.preconditions import require_packages
    from workers.settings import WorkerSettings
    from workers.slots import check_spread
    from workers.supervisor.link import EXIT_NEVER_READY
    from workers.supervisor.supervisor import Supervisor

    protect_output()
    try:
        settings = WorkerSettings()
        queue_settings = QueueSettings()
        engine_settings = EngineSettings()
        # workers read these settings; a wrong value is reported before they start
        EchoSettings()
        filter_settings = FilterSettings()
        if filter_settings.paths:
            Lists(filter_settings)
        require_packages(engine_settings)
        if settings.metrics:
            require_package("VQA_METRICS_ADDRESS")
        LogSettings()
        workers = requested_cards(settings.cards)
        for cards in workers:
            check_spread(engine_settings, cards)
        set_up_logging(settings.log_level)
        # for the jobs that its janitor closes
        start_tracing("vqa-worker", "supervisor")
    except SettingsError as error:
        print(f"vqa: SettingsError: {error}", file=sys.stderr)
        return 2
    except NotReady as error:
        print(f"vqa: NotReady: {error}", file=sys.stderr)
        return EXIT_NEVER_READY
    janitor = Janitor(connect(queue_settings, retry_s=0), make_app(queue_settings), queue_settings)
    janitor.start()
    try:
        return Supervisor(workers, name, settings, engine_settings).run()
    finally:
        janitor.stop()


if __name__ == "__main__":
    app(prog_name="vqa worker")
