"""Encodes prompts to a model's input tensors: one by one, so that errors stay with their prompt, then collated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.pipelines.image_text_to_text import ImageTextToTextPipeline
from transformers.utils.chat_template_utils import Chat

from vqa.errors import InvalidJob
from workers.engine.base import Prompt
from workers.engine.image import RGBImage
from workers.engine.model.image_sizes import fit_of
from workers.engine.model.video_processor import metadata, video_fit
from workers.engine.text.chat import NO_PLACE, ChatEncoder
from workers.engine.text.chat import Chat as Messages
from workers.engine.text.grammar import Guides
from workers.engine.text.guide import Guide
from workers.engine.video import NO_VIDEOS


@dataclass(frozen=True, slots=True, eq=False)
class ModelInputs:
    """The tensors of one prompt; the leading dimension is 1, or counts patches or images."""

    tensors: Mapping[str, Tensor]
    prompt_tokens: int
    #: None without a grammar
    guide: Guide | None = None
    #: width and height at which the model sees each image; None where it is cut into tiles
    image_sizes: tuple[tuple[int, int] | None, ...] = ()
    #: tokens of each image; None if not known
    image_tokens: tuple[int | None, ...] = ()

    @property
    def kind(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The names and the sizes past the leading dimension; equal for prompts that can run together."""
        return tuple((name, self._rest(tensor)) for name, tensor in sorted(self.tensors.items()))

    def is_text(self, tensor: Tensor) -> bool:
        """Whether `tensor` has an integer per token, so that it is padded and not only concatenated."""
        return tensor.shape == (1, self.prompt_tokens) and not tensor.is_floating_point()

    def _rest(self, tensor: Tensor) -> tuple[int, ...]:
        return () if self.is_text(tensor) else tuple(tensor.shape[1:])


class Encoder(ChatEncoder[ModelInputs]):
    """A pipeline's preprocessing. Belongs to one thread, as the pipeline's tokenizer does."""

    def __init__(self, pipe: ImageTextToTextPipeline, slot_tokens: int, guides: Guides | None = None) -> None:
        super().__init__(pipe.processor, slot_tokens, guides)
        self._fit = fit_of(self.processor.image_processor)
        # Any: its methods are not typed
        self._pipe: Any = pipe
        tokenizer: Any = pipe.tokenizer
        self._pad_id = next(id for id in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if id is not None)

    def process(self, chat: Messages, prompt: Prompt) -> ModelInputs:
        videos = prompt.videos
        if videos and video_fit(self.processor) is None:
            raise InvalidJob(NO_VIDEOS)
        how: dict[str, Any] = {}
        if videos:
            how["videos_kwargs"] = {"video_metadata": [metadata(video) for video in videos]}
        if self._are_scaled(prompt.images):
            how["images_kwargs"] = {"do_resize": False}
        made = self._pipe.preprocess(Chat(cast(Any, chat)), processor_kwargs=how)
        tensors = {name: value for name, value in made.items() if isinstance(value, Tensor)}
        if isinstance(self.processor, Qwen3VLProcessor):
            _require_places(tensors, self.processor)
        sizes = _image_sizes(tensors, len(prompt.images), getattr(self.processor.image_processor, "patch_size", None))
        ids = tensors["input_ids"]
        tokens = _image_tokens(ids, getattr(self.processor, "image_token_id", None), len(prompt.images))
        return ModelInputs(tensors, ids.shape[1], self.guide(prompt), sizes, tokens)

    def count_tokens(self, inputs: ModelInputs) -> int:
        return inputs.prompt_tokens

    def _are_scaled(self, images: Sequence[RGBImage]) -> bool:
        """Whether all images have the model's sizes already: a limit of their job may have made them smaller."""
        if not images or self._fit is None:
            return False
        factor = self._fit.factor
        return not any(image.width % factor or image.height % factor for image in images)

    def collate(self, prompts: Sequence[ModelInputs]) -> dict[str, Tensor]:
        """Join prompts of one kind into a microbatch: pad text on the left, concatenate everything else."""
        longest = max(prompt.prompt_tokens for prompt in prompts)
        return {
            name: torch.cat([self._row(prompt, name, longest) for prompt in prompts]) for name in prompts[0].tensors
        }

    def _row(self, prompt: ModelInputs, name: str, longest: int) -> Tensor:
        tensor = prompt.tensors[name]
        if not prompt.is_text(tensor):
            return tensor
        fill = self._pad_id if name == "input_ids" else 0
        return torch.nn.functional.pad(tensor, (longest - prompt.prompt_tokens, 0), value=fill)


def _require_places(tensors: Mapping[str, Tensor], processor: Any) -> None:
    """Raise InvalidJob if a template left out an image or a video, for which transformers 5.17 does not look."""
    for name, what in (("image", "an image"), ("video", "a video")):
        if (grids := tensors.get(f"{name}_grid_thw")) is not None:
            needed = int(grids.prod(dim=1).sum()) // getattr(processor, f"{name}_processor").merge_size ** 2
            if int((tensors["input_ids"] == getattr(processor, f"{name}_token_id")).sum()) != needed:
                raise InvalidJob(NO_PLACE.format(what))


def _image_tokens(ids: Tensor, image_id: object, images: int) -> tuple[int | None, ...]:
    """Return the tokens of each image: the runs of the image's token, where there are as many as images."""
    runs = [len(list(run)) for id, run in groupby(ids[0].tolist()) if id == image_id]
    return tuple(runs) if len(runs) == images else (None,) * images


def _image_sizes(tensors: Mapping[str, Tensor], images: int, patch: object) -> tuple[tuple[int, int] | None, ...]:
    """Return the width and height of each image in a processor's output; None where that does not tell."""
    grids, pixels = tensors.get("image_grid_thw"), tensors.get("pixel_values")
    if grids is not None and isinstance(patch, int) and len(grids) == images:
        return tuple((columns * patch, rows * patch) for _, rows, columns in grids.tolist())
    if pixels is not None and pixels.dim() == 4 and len(pixels) == images:
        return ((pixels.shape[3], pixels.shape[2]),) * images
    return (None,) * images
