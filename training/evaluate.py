"""Asks a checkpoint the held-out questions with `generate`, one at a time: `python -m training.evaluate`.

Builds the model's inputs without the processor class, which needs torchvision. The official figure (`make eval`) goes
through a worker; this one checks only the checkpoint.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer, Qwen2VLImageProcessorPil

from training.phrasings import FAMILIES
from training.questions import Item, held_out
from training.tokenizer import IMAGE

MAX_TOKENS = 8


class Checkpoint:
    """A loaded checkpoint that answers questions."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._processor: Any = Qwen2VLImageProcessorPil.from_pretrained(folder)
        self._model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()

    def answer(self, image: Image.Image, question: str, system: str | None = None, question_first: bool = False) -> str:
        """Return the greedy answer, with an ellipsis if the model does not end it."""
        parts = [{"type": "image"}, {"type": "text", "text": question}]
        chat: list[dict[str, Any]] = [{"role": "user", "content": parts[::-1] if question_first else parts}]
        if system is not None:
            chat.insert(0, {"role": "system", "content": system})
        text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        vision = self._processor(image.convert("RGB"), return_tensors="pt")
        text = text.replace(IMAGE, IMAGE * (int(vision["image_grid_thw"].prod()) // 4))
        ids = torch.tensor([self.tokenizer.encode(text)])
        kinds = (ids == self.tokenizer.convert_tokens_to_ids(IMAGE)).int()
        with torch.no_grad():
            out = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=kinds,
                max_new_tokens=MAX_TOKENS,
                **vision,
            )[0, ids.shape[1] :]
        stopped = int(out[-1]) in self._model.generation_config.eos_token_id
        return str(self.tokenizer.decode(out, skip_special_tokens=True)) + ("" if stopped else "...")


def score(checkpoint: Checkpoint, items: Iterable[Item], **how: Any) -> tuple[dict[str, list[bool]], list[float]]:
    """Return whether each answer was correct, by family, and the seconds per question."""
    hits, seconds = defaultdict[str, list[bool]](list), []
    for item in items:
        started = time.perf_counter()
        hits[item.family].append(checkpoint.answer(item.image, item.question, **how) == item.answer)
        seconds.append(time.perf_counter() - started)
    return hits, seconds


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("models/tiny-vl"))
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--system", help="system message")
    parser.add_argument("--question-first", action="store_true", help="the question before the image")
    args = parser.parse_args()
    how = {"system": args.system, "question_first": args.question_first}
    hits, seconds = score(Checkpoint(args.folder), held_out(args.count, args.seed), **how)
    for family in FAMILIES:
        print(f"{family:10} {sum(hits[family])}/{len(hits[family])}")
    every = [hit for family in hits.values() for hit in family]
    print(f"{'all':10} {sum(every)}/{len(every)}, {median(seconds) * 1000:.0f} ms a question (median)")


if __name__ == "__main__":
    main()
