"""One setting tried out in a process of its own, `python -m workers.tune.trial_child`, so that its memory goes with it.

It tells what it does as lines of JSON on standard output, and ends when its standard input does: whoever started it
is gone then.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from vqa.errors import VQAError
from workers.cards import capability, wanted_cards
from workers.engine.factory import chosen, make_engine
from workers.engine.settings import EngineSettings
from workers.settings import WorkerSettings
from workers.slots import plan_slots
from workers.tune.trial import Question, Trial


class Events:
    """What this process tells, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answered = 0
        # what libraries print is not to stand between the lines
        self._lines = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def tell(self, **event: object) -> None:
        """One line."""
        with self._lock:
            self._lines.write(json.dumps(event) + "\n")
            self._lines.flush()

    def answered(self) -> None:
        """One job more."""
        with self._lock:
            self._answered += 1
            count = self._answered
        self.tell(answered=count)


def main(arguments: Sequence[str] | None = None) -> int:
    """Load, warm up, measure, tell; 1 where that was not possible."""
    options = _parser().parse_args(arguments)
    events = Events()
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        _measure(options, events)
    except VQAError as error:
        events.tell(error=f"{type(error).__name__}: {error}")
        return 1
    return 0


def _measure(options: argparse.Namespace, events: Events) -> None:
    cards = wanted_cards(WorkerSettings().cards)[0]
    settings, _ = chosen(EngineSettings(), len(cards), capability(cards))
    plan_slots(settings, cards, options.slots)
    began = time.monotonic()
    with Trial(make_engine(settings, options.slots), settings) as trial:
        events.tell(loaded_s=time.monotonic() - began)
        # as many as a worker has in its hands: its slots, and those that are decoded meanwhile
        in_flight = options.slots + max(2, options.slots // 4)
        images = [Path(image).read_bytes() for image in options.images]
        warm_up = [Question(image, options.question, 2) for image in _fresh(images, "w", options.slots)]
        trial.run(warm_up, in_flight)
        asked = [
            Question(image, options.question, options.max_new_tokens) for image in _fresh(images, "j", options.jobs)
        ]
        run = trial.run(asked, in_flight, on_answer=events.answered)
        events.tell(rate=run.rate, p50_s=run.percentile(50), p95_s=run.percentile(95))


def _fresh(images: Sequence[bytes], mark: str, count: int) -> list[bytes]:
    """So many images in turn, no two with the same bytes: what an engine remembers of an image is not measured.

    Decoders read nothing that follows the image.
    """
    turns = itertools.islice(itertools.cycle(images), count)
    return [image + f"\0{mark}{number}".encode() for number, image in enumerate(turns)]


def _end_with_input() -> None:
    while os.read(0, 1024):
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
