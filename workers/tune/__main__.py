"""`python -m workers.tune`, which `vqa tune` executes: which number of slots suits this machine and these images."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console

from vqa.errors import BadImage, SettingsError, VQAError
from vqa.image import open_image, read_image
from vqa.settings import PREFIX, QueueSettings
from workers.cards import pinned, wanted_cards
from workers.engine.settings import EngineSettings
from workers.settings import WorkerSettings
from workers.tune.trial_process import Load, Measured, Setting, try_out

#: a rate so near the best one is as good, and fewer slots answer each job sooner
_NEAR = 0.95

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})

_EXAMPLE = """\
example:
  vqa tune images/ --model Qwen/Qwen3-VL-30B-A3B-Instruct --cards 0 --slots 32,64,128

Each setting loads the model in a process of its own. The images are asked about in turn, each time as new ones. p50
and p95 are from a worker's taking a job to its answer, while all slots are busy. Every VQA_ variable means what it
means to `vqa worker`. Ctrl-C ends early, with what was measured until then.
"""


class _Stopped(BaseException):
    """By a signal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure each setting, say which to take; the process's exit status."""
    options = _parser().parse_args(arguments)
    for option in ("model", "engine", "cards"):
        if (value := getattr(options, option)) is not None:
            os.environ[PREFIX + option.upper()] = value
    try:
        settings = _settings(options, EngineSettings())
        environment = pinned(wanted_cards(WorkerSettings().cards)[0])
        load = Load(_images(options.images), options.question, options.max_new_tokens, options.jobs)
    except (SettingsError, BadImage) as error:
        print(f"vqa: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return _sweep(settings, load, environment)


def _sweep(settings: Sequence[Setting], load: Load, environment: dict[str, str]) -> int:
    """Print a row a setting, then the knee."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    measured: dict[Setting, Measured] = {}
    status = 0
    print(f"{'':32} {'jobs/s':>8} {'p50':>10} {'p95':>10}", flush=True)
    try:
        with Console(stderr=True).status("") as progress:
            for setting in settings:
                outcome = try_out(setting, load, environment, progress.update)
                if isinstance(outcome, Measured):
                    measured[setting] = outcome
                print(_row(setting, outcome), flush=True)
    except _Stopped as stopped:
        status = 128 + int(stopped.args[0])
        print("stopped; not every setting was measured", flush=True)
    if measured:
        print(_advice(measured))
    return status or (0 if measured else 1)


def knee(measured: dict[Setting, Measured]) -> Setting:
    """Of those as fast as the best, or nearly so, the one with the fewest slots."""
    enough = _NEAR * max(outcome.rate for outcome in measured.values())
    return min(
        (setting for setting, outcome in measured.items() if outcome.rate >= enough),
        key=lambda setting: (setting.slots, setting.microbatch or 0),
    )


def _row(setting: Setting, outcome: Measured | str) -> str:
    if isinstance(outcome, str):
        return f"{setting!s:32} {outcome}"
    return f"{setting!s:32} {outcome.rate:8.2f} {outcome.p50_s:8.2f} s {outcome.p95_s:8.2f} s"


def _advice(measured: dict[Setting, Measured]) -> str:
    chosen = knee(measured)
    best = max(measured, key=lambda setting: measured[setting].rate)
    near = f"within {1 - _NEAR:.0%} of the fastest, {best} ({measured[best].rate:.2f})"
    return (
        f"the knee: {measured[chosen].rate:.2f} jobs/s with {chosen}, {'the fastest' if best == chosen else near}\n"
        f"for the environment of `vqa worker`:\n" + str(chosen).replace(" ", "\n")
    )


def _settings(options: argparse.Namespace, engine: EngineSettings) -> list[Setting]:
    """The settings to try, the smallest first. Raises SettingsError."""
    if options.microbatch is None:
        return [Setting(slots) for slots in options.slots]
    if engine.engine != "pipeline":
        raise SettingsError("--microbatch: only the pipeline engine has microbatches (--engine pipeline)")
    tried = [Setting(slots, size) for slots in options.slots for size in options.microbatch if size <= slots]
    if not tried:
        raise SettingsError("--microbatch: a microbatch has at most as many prompts as there are slots")
    return tried


def _images(names: Sequence[str]) -> list[str]:
    """The files, and those in the folders. Raises BadImage for one that is no image a worker would take."""
    limits = QueueSettings()
    found = [str(path) for name in names for path in _files(Path(name))]
    if not found:
        raise BadImage(f"there is no image in {', '.join(names)}")
    for path in found:
        try:
            open_image(read_image(path), limits.image_max_bytes, limits.image_max_pixels)
        except VQAError as error:
            raise BadImage(f"{path}: {error}") from None
    return found


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)


def _stop(number: int, _frame: FrameType | None) -> None:
    # what cleans up is short, and must not be stopped half-way
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise _Stopped(number)


def _numbers(text: str) -> list[int]:
    return sorted({_number(part) for part in text.split(",")})


def _number(text: str) -> int:
    if not text.strip().isdecimal() or not 1 <= int(text) <= 32_768:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 32768")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vqa tune",
        description="Try numbers of slots on this machine, with your own images, and say which to set.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, or folders of them")
    parser.add_argument("--question", default="What is in the image?", help="(default: %(default)s)")
    parser.add_argument("--slots", type=_numbers, default=[16, 32, 64, 128], help="(default: 16,32,64,128)")
    parser.add_argument("--microbatch", type=_numbers, help="for the pipeline engine (default: half the slots)")
    parser.add_argument("--jobs", type=_number, help="timed jobs of each setting (default: three times the slots)")
    parser.add_argument("--max-new-tokens", type=_number, default=64, help="longest answer (default: %(default)s)")
    parser.add_argument("--model", help="hub name or local folder")
    parser.add_argument("--engine", help="as of `vqa worker`")
    parser.add_argument("--cards", help="which card; the first where there are several; cpu for none")
    return parser


if __name__ == "__main__":
    sys.exit(main())
