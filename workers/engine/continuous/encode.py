"""Encodes prompts without the image processor: images already have the model's size, and the card does the rest."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy
import torch
from torch import Tensor
from transformers.video_utils import VideoMetadata

from vqa.errors import InvalidJob, NotReady
from workers.engine.base import Prompt
from workers.engine.continuous.prefix import block_hashes
from workers.engine.continuous.requests import ImageSpan, Request
from workers.engine.image import RGBImage
from workers.engine.model.image_sizes import FILTERS, QWEN_PROCESSOR, read_fit
from workers.engine.model.video_processor import VALUES, FrameProcessor, metadata, video_fit
from workers.engine.text.chat import NO_PLACE, Chat, ChatEncoder
from workers.engine.text.grammar import Guides
from workers.engine.video import NO_VIDEOS, Video

log = logging.getLogger(__name__)


def mrope_positions(count: int, images: Sequence[tuple[int, int, int]]) -> Tensor:
    """Return (count, 3) M-RoPE positions: time, height and width of each of a prompt's tokens.

    `images` are in order: the index of the first token, and the rows and columns of tokens. Frames of a video that
    become one count as an image. Equal to `get_rope_index` of transformers' models/qwen3_vl/modeling_qwen3_vl.py.
    """
    # numpy, as a dozen small calls of torch take several times as long
    positions = numpy.empty((count, 3), numpy.int64)
    token = position = 0
    for start, rows, columns in images:
        positions[token:start] = numpy.arange(position, position + start - token)[:, None]
        position += start - token
        token = start + rows * columns
        grid = positions[start:token].reshape(rows, columns, 3)
        grid[..., 0] = position
        grid[..., 1] = numpy.arange(position, position + rows)[:, None]
        grid[..., 2] = numpy.arange(position, position + columns)
        position += max(rows, columns)
    positions[token:] = numpy.arange(position, position + count - token)[:, None]
    return torch.from_numpy(positions)


class RequestEncoder(ChatEncoder[Request]):
    """Qwen3-VL's preprocessing for one thread, with its own tokenizer."""

    def __init__(
        self,
        processor: Any,
        slot_tokens: int,
        guides: Guides | None = None,
        block_size: int | None = None,
        model: str = "",
    ) -> None:
        """Hash blocks of `block_size` tokens for the prefix cache of `model`, with its revision; None for no cache."""
        super().__init__(processor, slot_tokens, guides)
        self._block_size = block_size
        self._model = model
        self._factor = read_fit(processor.image_processor).factor
        self._patch = int(processor.image_processor.patch_size)
        self._merge = int(processor.image_processor.merge_size)
        self._temporal = int(processor.image_processor.temporal_patch_size)
        self._image_id, self._video_id = int(processor.image_token_id), int(processor.video_token_id)

    def process(self, chat: Chat, prompt: Prompt) -> Request:
        # an assistant's last message is the beginning of the answer
        continued = chat[-1]["role"] == "assistant"
        text = self.processor.apply_chat_template(
            chat, tokenize=False, continue_final_message=continued, add_generation_prompt=not continued
        )
        if prompt.videos:
            text = self._with_times(text, prompt.videos)
        ids: list[int] = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids.count(self._image_id) != len(prompt.images):
            raise InvalidJob(NO_PLACE.format("an image"))
        tokens, spans = self._place_images(ids, prompt)
        grids = [(span.start, span.rows // self._merge, span.columns // self._merge) for span in spans]
        positions = mrope_positions(len(tokens), grids)
        hashes = self._block_hashes(tokens, spans, prompt.cache_salt)
        return Request(tokens, positions, spans, prompt.params, self.guide(prompt), hashes)

    def media(self, image: RGBImage) -> Any:
        # templates look whether there is one, and the processor never gets it
        return "image"

    def count_tokens(self, made: Request) -> int:
        return made.num_tokens

    def _with_times(self, text: str, videos: list[Video]) -> str:
        """Replace the placeholder of each video by times, each with a placeholder for the frames that become one."""
        processor = self.processor
        if video_fit(processor) is None:
            raise InvalidJob(NO_VIDEOS)
        if text.count(processor.video_token) != len(videos):
            raise InvalidJob(NO_PLACE.format("a video"))
        merge, temporal = self._merge, self._temporal
        grids = torch.tensor([(-(-len(video.frames) // temporal), merge, merge) for video in videos])
        made = {"video_grid_thw": grids, "video_metadata": [VideoMetadata(**metadata(video)) for video in videos]}
        times = [processor.replace_video_token(made, number) for number in range(len(videos))]
        return str(processor.get_text_with_replacements([text], [], times)[0][0])

    def _place_images(self, ids: list[int], prompt: Prompt) -> tuple[Tensor, tuple[ImageSpan, ...]]:
        """Replace the placeholder of each image, and of frames that become one, by as many as it has tokens."""
        spans: list[ImageSpan] = []
        #: of each id, how many tokens stand for it
        counts: list[int] = []
        count = 0
        left = {
            self._image_id: iter([(image,) for image in prompt.images]),
            self._video_id: chain.from_iterable(video.patches(self._temporal) for video in prompt.videos),
        }
        for id in ids:
            if id in left:
                spans.append(self._span(next(left[id]), count, prompt.cache_salt))
            counts.append(spans[-1].tokens if id in left else 1)
            count += counts[-1]
        return torch.from_numpy(numpy.repeat(numpy.array(ids, numpy.int64), counts)), tuple(spans)

    def _block_hashes(self, tokens: Tensor, spans: tuple[ImageSpan, ...], salt: str) -> tuple[bytes, ...]:
        if self._block_size is None:
            return ()
        return block_hashes(tokens, spans, self._block_size, f"{self._model} {salt}")

    def _span(self, frames: tuple[RGBImage, ...], start: int, salt: str) -> ImageSpan:
        image = frames[0]
        if image.width % self._factor or image.height % self._factor:
            raise ValueError(f"image of {image.width} x {image.height}: its sides must be multiples of {self._factor}")
        for frame in frames:
            # or the pass fails that computes it, with all prompts in it
            if len(frame.pixels) != 3 * image.width * image.height:
                raise ValueError(f"image of {image.width} x {image.height}: it has {len(frame.pixels)} bytes of pixels")
        rows, columns = image.height // self._patch, image.width // self._patch
        digest = image.digest
        if any(frame.digest != digest for frame in frames):
            pixels, digest = tuple(frame.pixels for frame in frames), " ".join(frame.digest for frame in frames)
        else:
            # the model sees an image as frames that are all the same
            pixels = (image.pixels,)
        return ImageSpan(pixels, rows, columns, start, rows * columns // self._merge**2, f"{salt} {digest}".lstrip())


def check_image_processor(image_processor: Any, vision: Any) -> None:
    """Raise NotReady if images cannot be processed as this processor says; `vision` is the tower's config.

    What else it says is heeded: sizes, filter, rescaling and normalization.
    """
    kind = type(image_processor).__name__
    if not kind.startswith(QWEN_PROCESSOR):
        raise _unsupported(f"image_processor_type={kind}", QWEN_PROCESSOR)
    size = dict(image_processor.size or {})
    if not {"shortest_edge", "longest_edge"} <= {name for name, value in size.items() if value}:
        raise _unsupported(f"size={size}", "one with shortest_edge and longest_edge")
    if not image_processor.do_resize:
        raise _unsupported("do_resize=false", "true")
    if image_processor.resample not in FILTERS:
        raise _unsupported(f"resample={image_processor.resample}", f"a filter of Pillow's, 0 to {max(FILTERS)}")
    used = {"rescale_factor": "do_rescale", "image_mean": "do_normalize", "image_std": "do_normalize"}
    for name, does in used.items():
        if getattr(image_processor, does) and getattr(image_processor, name) is None:
            raise _unsupported(f"{name}=null", f"one for {does}=true")
    patches = {"patch_size": "patch_size", "merge_size": "spatial_merge_size", "temporal_patch_size": None}
    for name, other in patches.items():
        given, needed = getattr(image_processor, name, None), getattr(vision, other or name)
        if given != needed:
            raise _unsupported(f"{name}={given}", f"{needed}, as in the model's config.json")


def require_alike(processor: Any) -> None:
    """Let the model take no videos if their frames become other numbers than images do."""
    frames, images = processor.video_processor, processor.image_processor
    if isinstance(frames, FrameProcessor) and frames.values != tuple(getattr(images, name) for name in VALUES):
        log.warning("the model takes no videos: its processors normalize frames and images differently")
        processor.video_processor = None


def _unsupported(given: str, needed: str) -> NotReady:
    return NotReady(
        f"preprocessor_config.json of the model (VQA_MODEL) has {given}; the continuous engine needs "
        f"{needed}. VQA_ENGINE=pipeline runs it as it is"
    )
