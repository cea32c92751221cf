"""Ask two models the same questions and print where their answers differ.

A queue is served by one model, so each model needs its own Redis database:

    VQA_REDIS_URL=redis://127.0.0.1:6379/1 vqa worker --model models/tiny-vl
    VQA_REDIS_URL=redis://127.0.0.1:6379/2 vqa worker --model Qwen/Qwen3-VL-4B-Instruct
    python examples/compare_models.py examples/questions.jsonl redis://127.0.0.1:6379/1 redis://127.0.0.1:6379/2
"""

import argparse
import json
import os
import sys
from pathlib import Path

from producer import Batch, Client, VQAError


def answers(batch: Batch) -> dict[str, str]:
    """Wait for the batch; return each row's answer, or its error in brackets."""
    return {record["custom_id"]: record["text"] or f"({record['error']})" for record in batch.records()}


def main() -> int:
    """Submit the questions to both models, and print those with different answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path, help="file in the short form, such as examples/questions.jsonl")
    parser.add_argument("first", help="Redis URL of the first model")
    parser.add_argument("second", help="Redis URL of the second model")
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.questions.read_text().splitlines()]
    folder = options.questions.parent
    rows = [{"id": each["id"], "image": folder / each["image"], "question": each["question"]} for each in lines]
    with Client(redis_url=options.first) as one, Client(redis_url=options.second) as other:
        # submit to both before waiting for either
        batches = one.batches.create(rows), other.batches.create(rows)
        first, second = map(answers, batches)
    for row in rows:
        name = str(row["id"])
        if first[name] != second[name]:
            print(f"{name}: {row['question']}\n    {first[name]}\n    {second[name]}", flush=True)
    same = sum(first[str(row["id"])] == second[str(row["id"])] for row in rows)
    print(f"the same answer to {same} of {len(rows)} questions")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except VQAError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        # what was submitted goes on
        sys.exit(130)
    except BrokenPipeError:
        # the reader, such as `head`, has ended; Python must not flush the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
