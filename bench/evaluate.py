"""`make eval`: accuracy of the bundled model on held-out questions, asked through Redis and a Celery worker.

Exits with status 1 if the accuracy is under 95% overall or under 90% in a family.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.progress import track

from bench.stage import TINY, worker
from producer import Answer, Client, Job
from producer.demo.redis_server import EmbeddedRedis
from training.questions import held_out

MIN_OVERALL = 0.95
MIN_PER_FAMILY = 0.90


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask the questions and print the accuracy; return the exit status."""
    parser = argparse.ArgumentParser(prog="make eval", description=__doc__)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--model", default=str(TINY), help="folder or hub name (default: the bundled model)")
    parser.add_argument("--cards", default="cpu", help="a card's number (default: cpu)")
    options = parser.parse_args(arguments)
    asked, right = ask(options.questions, options.model, options.cards)
    shares = {family: right[family] / asked[family] for family in sorted(asked)}
    for family, share in shares.items():
        print(f"{family:10} {share:7.1%}  {right[family]} of {asked[family]}")
    overall = right.total() / asked.total()
    print(f"right: {overall:.1%} of {asked.total()} held-out questions")
    return 0 if overall >= MIN_OVERALL and min(shares.values()) >= MIN_PER_FAMILY else 1


def ask(questions: int, model: str, cards: str) -> tuple[Counter[str], Counter[str]]:
    """Return how many questions of each family were asked, and how many were answered correctly."""
    asked: Counter[str] = Counter()
    right: Counter[str] = Counter()
    settings = {"VQA_MODEL": model, "VQA_CARDS": cards}
    with EmbeddedRedis() as server, Client(redis_url=server.url) as client, worker(client, **settings):
        items = dict(enumerate(held_out(questions)))
        jobs = (
            Job.about(items[n].image, items[n].question, id=f"eval-{n}", lane="bulk", max_new_tokens=16) for n in items
        )
        ids = client.submit_many(jobs)
        progress = track(client.answers(ids), "Asking", total=len(ids), console=Console(stderr=True), transient=True)
        for id, outcome in progress:
            item = items[int(id.removeprefix("eval-"))]
            asked[item.family] += 1
            if not isinstance(outcome, Answer):
                raise outcome
            right[item.family] += outcome.text.strip() == item.answer
    return asked, right


if __name__ == "__main__":
    sys.exit(main())
