"""From a prompt to numbers, without the image processor: images come at the model's size, the card does the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vqa.errors import InvalidJob
from workers.engine.base import Prompt
from workers.engine.continuous.requests import Request, Sight
from workers.engine.image import Fit, RGBImage
from workers.engine.text.chat import Chat, ChatEncoder
from workers.engine.text.grammar import Guide, Guides


def positions_of(count: int, images: Sequence[tuple[int, int, int]]) -> Tensor:
    """(count, 3) for a prompt of `count` tokens with images (first token, rows and columns of tokens), in order.

    `get_rope_index` of transformers' models/qwen3_vl/modeling_qwen3_vl.py, without videos.
    """
    parts: list[Tensor] = []
    token = position = 0
    for start, rows, columns in images:
        parts.append(_line(start - token, position))
        position += start - token
        parts.append(_plane(rows, columns) + position)
        token, position = start + rows * columns, position + max(rows, columns)
    parts.append(_line(count - token, position))
    return torch.cat(parts)


def _line(count: int, first: int) -> Tensor:
    return torch.arange(first, first + count)[:, None].expand(-1, 3)


def _plane(rows: int, columns: int) -> Tensor:
    height, width = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(height), height, width], dim=-1).flatten(0, 1)


class RequestEncoder(ChatEncoder[Request]):
    """Qwen3-VL's preprocessing for one thread, with a tokenizer of its own."""

    def __init__(self, processor: Any, slot_tokens: int, guides: Guides | None = None) -> None:
        super().__init__(processor, slot_tokens, guides)
        self._factor = fit_of(processor.image_processor).factor
        self._patch = int(processor.image_processor.patch_size)
        self._merge = int(processor.image_processor.merge_size)
        self._image_id = int(processor.image_token_id)

    def process(self, chat: Chat, prompt: Prompt) -> Request:
        """See `ChatEncoder`."""
        continued = chat[-1]["role"] == "assistant"
        text = self.processor.apply_chat_template(
            chat, tokenize=False, continue_final_message=continued, add_generation_prompt=not continued
        )
        ids: list[int] = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        images = [part for turn in prompt.turns for part in turn.parts if isinstance(part, RGBImage)]
        if ids.count(self._image_id) != len(images):
            raise InvalidJob("the model's chat template has no place for an image in one of these turns")
        return self._request(ids, images, self.guide(prompt))

    def count_tokens(self, made: Request) -> int:
        """See `ChatEncoder`."""
        return made.count

    def _request(self, ids: list[int], images: list[RGBImage], guide: Guide | None) -> Request:
        sights: list[Sight] = []
        tokens: list[int] = []
        left = iter(images)
        for id in ids:
            if id == self._image_id:
                sights.append(self._sight(next(left), len(tokens)))
                tokens += [id] * sights[-1].tokens
            else:
                tokens.append(id)
        places = [(sight.start, sight.rows // self._merge, sight.columns // self._merge) for sight in sights]
        return Request(torch.tensor(tokens), positions_of(len(tokens), places), tuple(sights), guide)

    def _sight(self, image: RGBImage, start: int) -> Sight:
        if image.width % self._factor or image.height % self._factor:
            raise ValueError(f"an image of {image.width} x {image.height} is not of the model's size")
        rows, columns = image.height // self._patch, image.width // self._patch
        return Sight(image.pixels, rows, columns, start, rows * columns // self._merge**2, image.digest)


def fit_of(image_processor: Any) -> Fit:
    """The sizes that a Qwen-VL image processor makes of images."""
    size = image_processor.size
    factor = int(image_processor.patch_size) * int(image_processor.merge_size)
    return Fit(factor, min_pixels=int(size["shortest_edge"]), max_pixels=int(size["longest_edge"]))
