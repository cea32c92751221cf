"""`make eval`: accuracy of the bundled model on held-out questions, asked through Redis and a Celery worker.

The first of them are asked again with the possible answers as choices, for a table of how often a choice of some
probability is right. Exits with status 1 if the accuracy is under 95% overall or under 90% in a family.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.progress import track

from bench.reliability import table
from bench.stage import TINY, worker
from producer import Answer, Client, Job
from producer.demo.redis_server import EmbeddedRedis
from training.palette import COLOURS, SHAPES
from training.phrasings import NUMBERS
from training.questions import Item, held_out

MIN_OVERALL = 0.95
MIN_PER_FAMILY = 0.90

#: the possible answers by family
CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "how many": NUMBERS,
    "where": ("top left", "top right", "bottom left", "bottom right"),
    "yes/no": ("yes", "no"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask the questions, print the accuracy and the table, and return the exit status."""
    parser = argparse.ArgumentParser(prog="make eval", description=__doc__)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--choices", type=int, default=200, help="questions that are asked with choices, too")
    parser.add_argument("--model", default=str(TINY), help="folder or hub name (default: the bundled model)")
    parser.add_argument("--cards", default="cpu", help="a card's number (default: cpu)")
    options = parser.parse_args(arguments)
    items = list(held_out(options.questions))
    settings = {"VQA_MODEL": options.model, "VQA_CARDS": options.cards}
    with EmbeddedRedis() as server, Client(redis_url=server.url) as client, worker(client, **settings):
        is_accurate = _print_accuracy(_answers(client, items))
        _print_reliability(_answers(client, items[: options.choices], with_choices=True))
    return 0 if is_accurate else 1


def _print_accuracy(answers: Iterable[tuple[Item, Answer]]) -> bool:
    """Print how many questions were answered correctly; return whether these are enough."""
    asked: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for item, answer in answers:
        asked[item.family] += 1
        right[item.family] += answer.text.strip() == item.answer
    shares = {family: right[family] / asked[family] for family in sorted(asked)}
    for family, share in shares.items():
        print(f"{family:10} {share:7.1%}  {right[family]} of {asked[family]}")
    overall = right.total() / asked.total()
    print(f"right: {overall:.1%} of {asked.total()} held-out questions")
    return overall >= MIN_OVERALL and min(shares.values()) >= MIN_PER_FAMILY


def _print_reliability(answers: Iterable[tuple[Item, Answer]]) -> None:
    chosen = [(max((answer.choices or {}).values()), answer.text == item.answer) for item, answer in answers]
    if chosen:
        print("\nasked with choices:", *table(chosen), sep="\n")


def _answers(client: Client, items: Sequence[Item], *, with_choices: bool = False) -> Iterator[tuple[Item, Answer]]:
    """Ask the questions and yield their answers, as they come."""
    jobs = (
        Job.about(
            item.image,
            item.question,
            id=f"{'choices' if with_choices else 'eval'}-{number}",
            lane="bulk",
            max_new_tokens=16,
            response_format=_format(item) if with_choices else None,
        )
        for number, item in enumerate(items)
    )
    ids = client.submit_many(jobs)
    by_id = dict(zip(ids, items, strict=True))
    progress = track(client.answers(ids), "Asking", total=len(ids), console=Console(stderr=True), transient=True)
    for id, outcome in progress:
        if not isinstance(outcome, Answer):
            raise outcome
        yield by_id[id], outcome


def _format(item: Item) -> dict[str, object]:
    return {"type": "choice", "choices": CHOICES[item.family], "probabilities": True}


if __name__ == "__main__":
    sys.exit(main())
