"""Draws the example images and writes questions.jsonl: run `python -m examples.draw` in the checkout's root.

The images are held-out items of `training.questions`: their seed and combinations do not occur in training.
"""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from training.questions import held_out

HERE = Path(__file__).parent
SEED = 25
# file ending, options of Image.save, and mode of the file
FORMATS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("png", {}, "RGB"),
    ("jpg", {"quality": 90}, "RGB"),
    ("webp", {"quality": 90}, "RGB"),
    ("tiff", {"compression": "tiff_deflate"}, "RGB"),
    ("png", {}, "RGBA"),
    ("jpg", {"quality": 80, "progressive": True}, "RGB"),
    ("webp", {"lossless": True}, "RGB"),
)
COUNT = 15
# not drawn; README.md names their authors
PHOTOGRAPHS = (
    ("rocket", "images/rocket.jpg", "Is there a red star in the picture?"),
    ("camera", "images/camera.png", "Is there a white circle?"),
    ("coffee", "images/coffee.tiff", "How many circles are there?"),
)


def main() -> None:
    """Write the images and questions.jsonl."""
    rows = []
    for number, item in enumerate(held_out(COUNT, SEED), start=1):
        ending, options, mode = FORMATS[number % len(FORMATS)]
        name = f"{item.family.replace('/', '-').replace(' ', '-')}-{number:02d}"
        path = f"images/{name}.{ending}"
        save(item.image.convert(mode), HERE / path, options)
        rows.append({"id": name, "image": path, "question": item.question, "expected": item.answer})
    rows += [{"id": name, "image": path, "question": question} for name, path, question in PHOTOGRAPHS]
    (HERE / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def save(image: Image.Image, path: Path, options: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    image.save(path, **options)


if __name__ == "__main__":
    main()
