"""Put the same questions to two models and show where they differ.

A queue is served by one model, so each model has a Redis database of its own:

    VQA_REDIS_URL=redis://127.0.0.1:6379/1 vqa worker --model models/tiny-vl
    VQA_REDIS_URL=redis://127.0.0.1:6379/2 vqa worker --model Qwen/Qwen3-VL-4B-Instruct
    python examples/compare_models.py examples/questions.jsonl redis://127.0.0.1:6379/1 redis://127.0.0.1:6379/2
"""

import argparse
import json
import sys
from pathlib import Path

from producer import Batch, Client


def answers(batch: Batch) -> dict[str, str]:
    """What the model says to each row."""
    return {record["custom_id"]: record["text"] or f"({record['error']})" for record in batch.records()}


def main() -> int:
    """Submit to both, and print a line for each question on which they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path, help="a file of questions in the short form")
    parser.add_argument("first", help="the Redis of one model")
    parser.add_argument("second", help="the Redis of the other")
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.questions.read_text().splitlines()]
    folder = options.questions.parent
    rows = [{"id": each["id"], "image": folder / each["image"], "question": each["question"]} for each in lines]
    with Client(redis_url=options.first) as one, Client(redis_url=options.second) as other:
        # both are submitted before either is waited for
        batches = one.batches.create(rows), other.batches.create(rows)
        first, second = map(answers, batches)
    for row in rows:
        name = str(row["id"])
        if first[name] != second[name]:
            print(f"{name}: {row['question']}\n    {first[name]}\n    {second[name]}")
    same = sum(first[str(row["id"])] == second[str(row["id"])] for row in rows)
    print(f"the same answer to {same} of {len(rows)} questions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
