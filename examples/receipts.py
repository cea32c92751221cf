"""Read receipts into JSON: `python examples/receipts.py receipts/*.jpg > receipts.jsonl`.

A JSON schema constrains the answers, so every line parses. Needs workers on the Redis of VQA_REDIS_URL, with a model
that reads photographs, such as Qwen/Qwen3-VL-4B-Instruct; the bundled models/tiny-vl knows drawn shapes alone.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from producer import Client, VQAError

SCHEMA = {
    "type": "object",
    "properties": {
        "shop": {"type": "string", "maxLength": 40},
        "date": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"},
        "total": {"type": "number"},
        "currency": {"enum": ["EUR", "USD", "GBP", "CHF", "other"]},
    },
    "required": ["shop", "date", "total", "currency"],
    "additionalProperties": False,
}
QUESTION = "Read this receipt. Answer with the shop's name, the date, the total and its currency."


def main() -> int:
    """Submit the images, and print one line of JSON per receipt. Return 3 if some failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path, nargs="+")
    options = parser.parse_args()
    response_format = {"type": "json_schema", "json_schema": {"name": "receipt", "schema": SCHEMA}}
    rows = [{"id": path.name, "image": path, "question": QUESTION} for path in options.images]
    failed = 0
    with Client() as client:
        for result in client.batches.create(rows, response_format=response_format, max_new_tokens=200).results():
            record = result.record()
            failed += record["error"] is not None
            print(json.dumps({name: record[name] for name in ("custom_id", "parsed", "error")}), flush=True)
    return 3 if failed else 0


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
