"""Training batches: draws images, asks questions and lays out rows. Runs in the loader's processes.

Pixels equal those of the checkpoint's image processor before normalisation: the same size and bicubic resize. Knows
words and layout; nothing of the model.
"""

import io
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from training.architecture import CELL, MAX_PIXELS, MIN_PIXELS
from training.layout import Layout
from training.palette import COLOURS, OTHER, SHAPES, SIZES
from training.phrasings import SYSTEM_MESSAGES
from training.questions import Item, training_questions, training_scene
from training.scenes import Scene, paint
from training.tokenizer import END, IMAGE, START, TEXT_END, VISION_END, VISION_START

OPENING, SEGMENT = 32, 21  # tokens; a test checks that the longest opening and question fit
UNLABELLED = -100
COLOUR_CLASSES, SHAPE_CLASSES = (*COLOURS, OTHER), (*SHAPES, OTHER)


@dataclass(frozen=True)
class Row:
    """One image with questions and answers. With `first`, the only question stands before the image."""

    image: Image.Image
    scene: Scene
    asked: tuple[tuple[str, str], ...]
    system: str | None = None
    first: bool = False


class Batch(NamedTuple):
    """pixels (batch, height, width, 3) bytes; ids and labels (batch, length); cells (batch, image tokens, 2)."""

    pixels: Tensor
    ids: Tensor
    labels: Tensor
    cells: Tensor


@cache
def rounded_size(width: int, height: int) -> tuple[int, int]:
    """Return the width and height that the image processor resizes to."""
    w, h = round(width / CELL) * CELL, round(height / CELL) * CELL
    if w * h > MAX_PIXELS:
        beta = math.sqrt(width * height / MAX_PIXELS)
        w, h = (max(CELL, math.floor(side / beta / CELL) * CELL) for side in (width, height))
    elif w * h < MIN_PIXELS:
        beta = math.sqrt(MIN_PIXELS / (width * height))
        w, h = (math.ceil(side * beta / CELL) * CELL for side in (width, height))
    return w, h


def rounded_sizes() -> list[tuple[int, int]]:
    """Return all rounded sizes of training images."""
    return sorted({rounded_size(*size) for size in SIZES})


def layout_for(size: tuple[int, int], segments: int) -> Layout:
    """Return the layout of rows with images of a rounded size."""
    return Layout(size[1] // CELL, size[0] // CELL, OPENING, segments, SEGMENT)


class Collator:
    """Lays out rows of one rounded size as a batch."""

    def __init__(self, tokenizer: Any) -> None:
        self._encode = cache(lambda text: tuple(tokenizer.encode(text)))
        self._pad, self._image = self._encode(TEXT_END)[0], self._encode(IMAGE)[0]

    def batch(self, rows: list[Row], layout: Layout) -> Batch:
        """Return a batch of these rows, whose images round to the layout's size."""
        size = layout.columns * CELL, layout.rows * CELL
        ids = np.full((len(rows), layout.length), self._pad, np.int64)
        labels = np.full((len(rows), layout.length), UNLABELLED, np.int64)
        for row, own_ids, own_labels in zip(rows, ids, labels, strict=True):
            self._lay_out(row, layout, own_ids, own_labels)
        cells = np.stack([_cells(row.scene, layout) for row in rows])
        pixels = np.stack([np.asarray(_resized(row.image, size)) for row in rows])
        return Batch(*(torch.from_numpy(array) for array in (pixels, ids, labels, cells)))

    def _lay_out(self, row: Row, layout: Layout, ids: Any, labels: Any) -> None:
        opening = self._encode(f"{START}system\n{row.system}{END}\n") if row.system else ()
        opening += self._encode(f"{START}user\n") + (self._encode(row.asked[0][0]) if row.first else ())
        opening += self._encode(VISION_START)
        ids[layout.opening - len(opening) : layout.opening] = opening
        ids[layout.image] = self._image
        ids[layout.image.stop] = self._encode(VISION_END)[0]
        for number, (question, answer) in enumerate(row.asked):
            asked = () if row.first else self._encode(question)
            asked += self._encode(f"{END}\n{START}assistant\n")
            answered = self._encode(answer + END)
            start = layout.start(number)
            middle, stop = start + len(asked), start + len(asked) + len(answered)
            ids[start:stop] = asked + answered
            labels[middle:stop] = answered


class TrainingBatches(IterableDataset[Batch]):
    """An endless series of batches; every loader process draws its own."""

    def __init__(self, tokenizer: Any, images: int, questions: int, seed: int = 0) -> None:
        self._tokenizer, self._images, self._questions, self._seed = tokenizer, images, questions, seed

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        rng = random.Random(f"training {self._seed} {worker.id if worker else 0}")
        collator = Collator(self._tokenizer)
        while True:
            yield self.draw(rng, collator, rounded_size(*rng.choice(SIZES)))

    def draw(self, rng: random.Random, collator: Collator, target: tuple[int, int]) -> Batch:
        """Draw one batch of images that round to the target size."""
        rows = [self._row(rng, target) for _ in range(self._images)]
        return collator.batch(rows, layout_for(target, self._questions))

    def _row(self, rng: random.Random, target: tuple[int, int]) -> Row:
        size = rng.choice([size for size in SIZES if rounded_size(*size) == target])
        scene = training_scene(rng, size)
        image, first = paint(rng, scene), rng.random() < 0.1
        if rng.random() < 0.05:
            image = _through_jpeg(rng, image)
        asked = training_questions(rng, scene, 1 if first else self._questions)
        system = rng.choice(SYSTEM_MESSAGES) if rng.random() < 0.3 else None
        return Row(image, scene, tuple((question, answer) for _, question, answer in asked), system, first)


def item_batches(tokenizer: Any, items: Iterable[Item]) -> Iterator[tuple[Layout, Batch, list[Item]]]:
    """Yield the items as batches of one rounded size."""
    by_size: dict[tuple[int, int], list[Item]] = {}
    for item in items:
        by_size.setdefault(rounded_size(*item.size), []).append(item)
    for size, group in sorted(by_size.items()):
        layout = layout_for(size, 1)
        rows = [Row(item.image, item.scene, ((item.question, item.answer),)) for item in group]
        yield layout, Collator(tokenizer).batch(rows, layout), group


def _cells(scene: Scene, layout: Layout) -> Any:
    """Return, for each image token, the colour and shape whose middle it covers, from 1 with OTHER last; 0 for none."""
    cells = np.zeros((layout.rows * layout.columns, 2), np.int64)
    for thing in scene.things:
        row, column = int(thing.y * layout.rows / scene.height), int(thing.x * layout.columns / scene.width)
        cells[row * layout.columns + column] = (
            COLOUR_CLASSES.index(thing.colour) + 1,
            SHAPE_CLASSES.index(thing.shape) + 1,
        )
    return cells


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def _through_jpeg(rng: random.Random, image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=rng.randint(70, 95))
    return Image.open(stream).convert("RGB")
