"""The process that measures one setting: `python -m workers.tune.trial_child`, so that its memory is freed with it.

It sends its progress and the result as lines of JSON through the inherited link, and exits when the link is closed,
because its parent is gone then.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vqa.errors import VQAError
from workers.cards import compute_capability, requested_cards
from workers.child_process import inherited_link
from workers.engine.factory import choose_engine, make_engine
from workers.engine.settings import EngineSettings
from workers.settings import WorkerSettings
from workers.slots import plan_slots
from workers.tune.trial import Question, Trial


class Events:
    """Sends events to the parent, from any thread."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._lock = threading.RLock()
        self._answered = 0

    def emit(self, **event: object) -> None:
        with self._lock:
            self._link.sendall(json.dumps(event).encode() + b"\n")

    def count_answer(self) -> None:
        with self._lock:
            self._answered += 1
            self.emit(answered=self._answered)


def main(arguments: Sequence[str] | None = None) -> int:
    """Load, warm up, measure and send the result; return 1 if that was not possible."""
    options = _parser().parse_args(arguments)
    link = inherited_link()
    assert link is not None
    events = Events(link)
    threading.Thread(target=_exit_with_parent, args=(link,), daemon=True).start()
    try:
        _measure(options, events)
    except VQAError as error:
        events.emit(error=f"{type(error).__name__}: {error}")
        return 1
    return 0


def _measure(options: argparse.Namespace, events: Events) -> None:
    cards = requested_cards(WorkerSettings().cards)[0]
    settings, _ = choose_engine(EngineSettings(), len(cards), compute_capability(cards))
    plan_slots(settings, cards, options.slots)
    started = time.monotonic()
    with Trial(make_engine(settings, options.slots), settings) as trial:
        events.emit(loaded_s=time.monotonic() - started)
        # as many as a worker holds: one per slot, and those being decoded meanwhile
        in_flight = options.slots + max(2, options.slots // 4)
        images = [Path(image).read_bytes() for image in options.images]
        warm_up = [Question(image, options.question, 2) for image in _distinct(images, "w", options.slots)]
        trial.run(warm_up, in_flight)
        questions = [
            Question(image, options.question, options.max_new_tokens) for image in _distinct(images, "j", options.jobs)
        ]
        run = trial.run(questions, in_flight, on_answer=events.count_answer)
        events.emit(rate=run.rate, p50_s=run.percentile(50), p95_s=run.percentile(95))


def _distinct(images: Sequence[bytes], mark: str, count: int) -> list[bytes]:
    """Return `count` images, taken in turn, with different bytes, so that no cache of the engine helps.

    Decoders ignore what follows the image.
    """
    repeated = itertools.islice(itertools.cycle(images), count)
    return [image + f"\0{mark}{number}".encode() for number, image in enumerate(repeated)]


def _exit_with_parent(link: socket.socket) -> None:
    with suppress(OSError):
        while link.recv(1024):
            continue
    os._exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workers.tune.trial_child", description=__doc__)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--max-new-tokens", type=int, required=True)
    parser.add_argument("--question", required=True)
    parser.add_argument("images", nargs="+")
    return parser


if __name__ == "__main__":
    sys.exit(main())
