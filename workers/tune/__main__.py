"""`python -m workers.tune`, which `vqa tune` executes: measures numbers of slots and recommends one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from vqa.errors import BadImage, NotReady, SettingsError
from vqa.images.file import read_header
from vqa.images.source import read_image
from vqa.settings import PREFIX, QueueSettings
from workers.cards import card_environment, requested_cards
from workers.engine.settings import EngineSettings
from workers.process.preconditions import require_packages
from workers.settings import WorkerSettings
from workers.supervisor.link import EXIT_NEVER_READY
from workers.tune.trial_process import Measurement, Setting, Workload, run_trial

#: a rate this close to the best is as good, and fewer slots answer each job sooner
_NEARLY_BEST = 0.95

_MAX_NUMBER = 32_768

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class _Stopped(BaseException):
    """SIGINT or SIGTERM arrived; the argument is its number."""


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def tune(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Files, or folders of them.")],
    question: Annotated[str, typer.Option()] = "What is in the image?",
    slots: Annotated[str, typer.Option(metavar="N,N,...", help="Numbers of slots to measure.")] = "16,32,64,128,256",
    microbatch: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="For the pipeline engine; half the slots by default.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, max=_MAX_NUMBER, help="Timed jobs per setting; three per slot by default.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=_MAX_NUMBER, help="Longest answer.")] = 64,
    model: Annotated[str | None, typer.Option(help="Hub name or local folder.")] = None,
    engine: Annotated[str | None, typer.Option(help="As for `vqa worker`.")] = None,
    cards: Annotated[str | None, typer.Option(help="Which card; the first by default; cpu for none.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Measure numbers of slots on this machine with your own images, and recommend one.

    Each setting loads the model in a process of its own. Questions go through the images in turn, each time as new
    images. p50 and p95 are from the moment a worker takes a job to its answer, while all slots are busy. VQA_ variables
    mean what they mean to `vqa worker`. Ctrl-C stops early and keeps what was measured.

    Example: vqa tune images/ --model Qwen/Qwen3-VL-30B-A3B-Instruct --cards 0 --slots 64,128,256
    """
    for option, value in (("MODEL", model), ("ENGINE", engine), ("CARDS", cards)):
        if value is not None:
            os.environ[PREFIX + option] = value
    try:
        require_packages(EngineSettings())
        sizes = None if microbatch is None else _numbers(microbatch, "--microbatch")
        settings = _settings(_numbers(slots, "--slots"), sizes, EngineSettings())
        environment = card_environment(requested_cards(WorkerSettings().cards)[0])
        workload = Workload(_images(images), question, max_new_tokens, jobs)
    except (SettingsError, BadImage) as error:
        print(f"vqa: {type(error).__name__}: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except NotReady as error:
        print(f"vqa: NotReady: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_NEVER_READY) from None
    raise typer.Exit(_sweep(settings, workload, environment, Console(stderr=True, quiet=quiet)))


def _sweep(settings: Sequence[Setting], workload: Workload, environment: dict[str, str], console: Console) -> int:
    """Measure each setting, print a row for it, then the recommendation; return the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    measured: dict[Setting, Measurement] = {}
    status = 0
    print(f"{'':32} {'jobs/s':>8} {'p50':>10} {'p95':>10}", flush=True)
    try:
        with console.status("") as progress:
            for setting in settings:
                outcome = run_trial(setting, workload, environment, progress.update)
                if isinstance(outcome, Measurement):
                    measured[setting] = outcome
                print(_row(setting, outcome), flush=True)
    except _Stopped as stopped:
        status = 128 + int(stopped.args[0])
        print("stopped; not every setting was measured", flush=True)
    if measured:
        print(_recommendation(measured))
    return status or (0 if measured else 1)


def knee(measured: dict[Setting, Measurement]) -> Setting:
    """Return the setting with the fewest slots among those nearly as fast as the fastest."""
    enough = _NEARLY_BEST * max(measurement.rate for measurement in measured.values())
    return min(
        (setting for setting, measurement in measured.items() if measurement.rate >= enough),
        key=lambda setting: (setting.slots, setting.microbatch or 0),
    )


def _row(setting: Setting, outcome: Measurement | str) -> str:
    if isinstance(outcome, str):
        return f"{setting!s:32} {outcome}"
    return f"{setting!s:32} {outcome.rate:8.2f} {outcome.p50_s:8.2f} s {outcome.p95_s:8.2f} s"


def _recommendation(measured: dict[Setting, Measurement]) -> str:
    chosen = knee(measured)
    best = max(measured, key=lambda setting: measured[setting].rate)
    near = f"within {1 - _NEARLY_BEST:.0%} of the fastest, {best} ({measured[best].rate:.2f})"
    return (
        f"the knee: {measured[chosen].rate:.2f} jobs/s with {chosen}, {'the fastest' if best == chosen else near}\n"
        f"for the environment of `vqa worker`:\n" + str(chosen).replace(" ", "\n")
    )


def _settings(slots: list[int], microbatches: list[int] | None, engine: EngineSettings) -> list[Setting]:
    """Return the settings to measure, smallest first. Raises SettingsError."""
    if microbatches is None:
        return [Setting(number) for number in slots]
    if engine.engine != "pipeline":
        raise SettingsError("--microbatch: only the pipeline engine has microbatches (--engine pipeline)")
    settings = [Setting(number, size) for number in slots for size in microbatches if size <= number]
    if not settings:
        raise SettingsError("--microbatch: a microbatch has at most as many prompts as there are slots")
    return settings


def _numbers(text: str, option: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not part.isdecimal() or not 1 <= int(part) <= _MAX_NUMBER:
            raise typer.BadParameter(f"{part!r} is not a number from 1 to {_MAX_NUMBER}", param_hint=option)
    return sorted(set(map(int, parts)))


def _images(names: Sequence[str]) -> list[str]:
    """Return the paths of the files, and of the images in the folders. Raises BadImage if a worker would refuse one."""
    limits = QueueSettings()
    paths = [str(path) for name in names for path in _files(Path(name))]
    if not paths:
        raise BadImage(f"there is no image in {', '.join(names)}")
    for path in paths:
        read_header(read_image(path), limits.image_limits, path)
    return paths


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)


def _stop(number: int, _frame: FrameType | None) -> None:
    # a second signal must not interrupt the clean-up, which is short
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise _Stopped(number)


if __name__ == "__main__":
    app(prog_name="vqa tune")
