"""`python -m workers`, which `vqa worker` executes: the supervisor of this machine's cards."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from vqa.celery import make_app
from vqa.connection import connect
from vqa.errors import SettingsError
from vqa.settings import PREFIX, QueueSettings
from workers.cards import wanted_cards
from workers.engine.settings import EngineSettings
from workers.log import set_up_logging
from workers.process.janitor import Janitor
from workers.settings import WorkerSettings
from workers.slots import check_spread
from workers.supervisor.supervisor import Supervisor

_EXAMPLE = """\
example:
  vqa worker --model Qwen/Qwen3-VL-30B-A3B-Instruct --cards 0,1 --slots 16

Every option is also a variable, VQA_MODEL and so on; an option wins. `vqa settings` lists them all.
Ctrl-C or SIGTERM drains: what is being answered is finished, the rest goes back to the queue.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, check, supervise; the process's exit status."""
    options = _parser().parse_args(arguments)
    name = options.name
    for option, value in vars(options).items():
        if option != "name" and value is not None:
            os.environ[PREFIX + option.upper()] = str(value)
    try:
        settings = WorkerSettings()
        queue_settings = QueueSettings()
        engine_settings = EngineSettings()
        workers = wanted_cards(settings.cards)
        for cards in workers:
            check_spread(engine_settings, cards)
    except SettingsError as error:
        print(f"vqa: SettingsError: {error}", file=sys.stderr)
        return 2
    set_up_logging(settings.log_level)
    janitor = Janitor(connect(queue_settings), make_app(queue_settings), queue_settings)
    janitor.start()
    try:
        return Supervisor(workers, name, settings, engine_settings).run()
    finally:
        janitor.stop()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vqa worker",
        description="Answer jobs: one worker process a card, each with one loaded model and a fixed number of slots.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", help="hub name or local folder")
    parser.add_argument("--revision", help="the model's commit or tag on the hub")
    parser.add_argument("--cards", help="such as 0,1, or 0+1 for one model on both; all by default; cpu for none")
    parser.add_argument("--slots", help="concurrent jobs a card: 16, or by card 0=16,1=8; from free memory by default")
    parser.add_argument("--engine", help="auto, continuous, pipeline or echo")
    parser.add_argument("--replicas", help="loaded pipelines on a card, for small models")
    parser.add_argument("--microbatch", help="most prompts that a pipeline runs together")
    parser.add_argument("--dtype", help="auto, float32, float16 or bfloat16")
    parser.add_argument("--quant", help="fp8, int8 or int4, for smaller cards; none by default")
    parser.add_argument("--name", help="node name in place of card0, card1, ...: two supervisors on one host need two")
    return parser


if __name__ == "__main__":
    sys.exit(main())
