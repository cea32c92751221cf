"""Read receipts into JSON: `python examples/receipts.py receipts/*.jpg > receipts.jsonl`.

The answer is held to a schema while it is generated, so every line parses. Needs workers on the Redis of VQA_REDIS_URL.
"""

import argparse
import json
import sys
from pathlib import Path

from producer import Client

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
    """Submit, and write a line for each receipt; 3 where some failed."""
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
    sys.exit(main())
