"""Caption every image of a folder: `python examples/caption_folder.py images/ > captions.csv`.

Submits all images as one batch, and prints captions as they finish. Needs workers on the Redis of VQA_REDIS_URL, with
a model that reads photographs, such as Qwen/Qwen3-VL-4B-Instruct; the bundled models/tiny-vl knows drawn shapes alone.
"""

import argparse
import csv
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from producer import Client, VQAError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


def rows(folder: Path) -> Iterator[dict[str, object]]:
    """Yield one row per image; its id is the path in the folder."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            name = path.relative_to(folder).as_posix()
            yield {"id": name, "image": path, "question": "Describe the image in one sentence."}


def main() -> int:
    """Submit the images, and print one line of CSV per caption. Return 3 if some failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    options = parser.parse_args()
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is not a folder")
    failed = 0
    with Client() as client:
        fields = {"input": str(options.folder), "max_new_tokens": options.max_new_tokens}
        batch = client.batches.create(rows(options.folder), **fields)
        print(f"{batch.id}: vqa status {batch.id} --watch", file=sys.stderr)
        writer = csv.DictWriter(sys.stdout, ["custom_id", "text", "error"], extrasaction="ignore")
        writer.writeheader()
        for record in batch.records():
            failed += record["error"] is not None
            writer.writerow(record)
            sys.stdout.flush()
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
