"""Videos of noise, and transformers' own processor for them."""

from __future__ import annotations

import random
from typing import Any

import torch
from PIL import Image
from transformers import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.video_processing_utils import BaseVideoProcessor

from vqa.images.video_fit import VideoFit
from workers.engine.image import RGBImage
from workers.engine.model.video_processor import video_fit
from workers.engine.video import Video


def noise(number: int, width: int = 200, height: int = 120) -> Image.Image:
    """A frame of its own for each number."""
    return Image.frombytes("RGB", (width, height), random.Random(number).randbytes(3 * width * height))


def scaled(fit: VideoFit, frames: list[Image.Image], fps: float = 3.0) -> Video:
    """The video as an engine takes it."""
    size = fit.for_frames(len(frames)).size(*frames[0].size)
    resized = (frame.resize(size, Image.Resampling(fit.resample)) for frame in frames)
    return Video(tuple(map(RGBImage.from_pil, resized)), tuple(number / fps for number in range(len(frames))))


def video(processor: Any, frames: int, first: int = 0) -> Video:
    """A video of so many frames of noise, at the model's size."""
    fit = video_fit(processor)
    assert fit is not None
    return scaled(fit, [noise(first + number) for number in range(frames)])


class Pillow(BaseVideoProcessor):
    """Stands for the three functions of torchvision that transformers calls."""

    def convert_to_rgb(self, video: Any) -> Any:
        return video

    def normalize(self, image: Any, mean: Any, std: Any, **_: Any) -> Any:
        return (image - torch.as_tensor(mean).view(3, 1, 1)) / torch.as_tensor(std).view(3, 1, 1)

    def resize(self, image: Any, size: Any, resample: Any, **_: Any) -> Any:
        """Scale (videos, frames, 3, height, width)."""
        rows = image.flatten(0, 1).permute(0, 2, 3, 1).numpy()
        made = [Image.fromarray(row).resize((size.width, size.height), Image.Resampling(resample)) for row in rows]
        stacked = torch.stack([torch.frombuffer(bytearray(each.tobytes()), dtype=torch.uint8) for each in made])
        return stacked.view(*image.shape[:2], size.height, size.width, 3).permute(0, 1, 4, 2, 3)


class WithoutTorchvision(Qwen3VLVideoProcessor, Pillow):
    """All else is transformers' own."""


class Processor(Qwen3VLProcessor):
    """Does not look for the classes of its parts, which transformers hides without torchvision."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        return type(argument)


def transformers_own(processor: Any, folder: str, torchvision: bool, **settings: Any) -> Any:
    """The processor as transformers makes it; without torchvision, three of its functions are replaced."""
    kind = Qwen3VLVideoProcessor if torchvision else WithoutTorchvision
    own = kind.from_pretrained(folder, **settings)
    made: Any = Processor(processor.image_processor, processor.tokenizer, own)
    made.chat_template = processor.chat_template
    return made
