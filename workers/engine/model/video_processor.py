"""Makes the input tensors of Qwen3-VL's videos without torchvision, which transformers' video processor needs."""

from __future__ import annotations

import logging
from typing import Any

import numpy
import torch
from torch import Tensor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.video_utils import VideoMetadata, make_batched_videos

from vqa.images.video_fit import VideoFit
from workers.engine.model.hub import source
from workers.engine.model.image_sizes import FILTERS
from workers.engine.settings import EngineSettings
from workers.engine.video import Video

log = logging.getLogger(__name__)

#: settings of image and video processors that say which numbers pixels become
VALUES = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")

#: of the tokens of a slot, the share that a video may take: the question, times and the answer need the rest
_SLOT_SHARE = 0.75


class FrameProcessor:
    """Stands for transformers' video processor: frames are sampled, and have the model's size already.

    The processor of the model calls it, and writes times and placeholders by its attributes.
    """

    def __init__(self, own: Any, settings: EngineSettings) -> None:
        """`own` is the model's Qwen3VLVideoProcessor, of which only what needs no torchvision is used."""
        self._own = own
        #: rescaling and normalization
        self.values = tuple(getattr(own, name) for name in VALUES)
        self.patch_size, self.merge_size = int(own.patch_size), int(own.merge_size)
        self.temporal_patch_size = int(own.temporal_patch_size)
        self.fit = self._fit(settings)

    def __call__(self, videos: Any, video_metadata: Any, **_: Any) -> dict[str, Any]:
        """Return the tensors of videos, which are lists of Pillow's images; `video_metadata` is of `metadata`."""
        arrays: list[Any] = make_batched_videos(videos)
        made = [self._patches(torch.from_numpy(numpy.ascontiguousarray(frames))) for frames in arrays]
        return {
            "pixel_values_videos": torch.cat([patches for patches, _ in made]),
            "video_grid_thw": torch.tensor([grid for _, grid in made]),
            "video_metadata": [VideoMetadata(**each) for each in video_metadata],
        }

    def _patches(self, frames: Tensor) -> tuple[Tensor, list[int]]:
        """Return the patches and the grid of (frames, height, width, 3) uint8."""
        own = self._own
        values = frames.float()
        if own.do_rescale:
            values = values * own.rescale_factor
        if own.do_normalize:
            values = (values - torch.tensor(own.image_mean)) / torch.tensor(own.image_std)
        batch = values.permute(0, 3, 1, 2).contiguous()[None]
        patches, *grid = own.patchify(batch, self.patch_size, self.merge_size, self.temporal_patch_size)
        return patches[0], grid

    def _fit(self, settings: EngineSettings) -> VideoFit:
        own, factor = self._own, self.patch_size * self.merge_size
        tokens = min(settings.high_image_tokens, int(settings.slot_tokens * _SLOT_SHARE))
        most = min(int(own.size["longest_edge"]), tokens * factor**2 * self.temporal_patch_size)
        cap = int(own.max_video_tokens) * factor**2 if own.cap_pixels_per_frame else None
        least = min(int(own.size["shortest_edge"]), most)
        return VideoFit(factor, least, most, cap, self.temporal_patch_size, int(own.resample))


def frame_processor(kind: Any, settings: EngineSettings, origin: dict[str, Any]) -> FrameProcessor | None:
    """Load the stand-in for a processor of this class; None if videos cannot be processed as the model says."""
    if not issubclass(kind, Qwen3VLProcessor):
        return None
    try:
        own: Any = Qwen3VLVideoProcessor.from_pretrained(source(settings), **origin)
    except OSError:
        log.warning("%s takes no videos: it has no video_preprocessor_config.json", settings.model)
        return None
    if objection := _objection(own):
        log.warning("%s takes no videos: its video processor has %s", settings.model, objection)
        return None
    return FrameProcessor(own, settings)


def _objection(own: Any) -> str:
    """Say what of a video processor's settings is not heeded; empty if nothing."""
    size = {name for name, value in dict(own.size or {}).items() if value}
    if not {"shortest_edge", "longest_edge"} <= size:
        return f"size={dict(own.size or {})}, not one with shortest_edge and longest_edge"
    if own.resample not in FILTERS:
        return f"resample={own.resample}, no filter of Pillow's"
    return "" if own.do_resize else "do_resize=false"


def video_fit(processor: Any) -> VideoFit | None:
    """Return how the model of this processor scales videos; None if it takes none."""
    found = getattr(processor, "video_processor", None)
    return found.fit if isinstance(found, FrameProcessor) else None


def metadata(video: Video) -> dict[str, Any]:
    """Return when a video's frames are, as transformers' processors read it: frame numbers at one frame a second."""
    # the last frame counts twice in an odd number of them, by a list that the processor makes longer
    return {"total_num_frames": len(video.frames), "fps": 1.0, "frames_indices": list(video.times_s)}
