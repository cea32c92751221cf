"""Videos become the numbers that transformers' own processor makes of them."""

from __future__ import annotations

import importlib.util
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.image_utils import SizeDict
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor, smart_resize
from transformers.pipelines.image_text_to_text import ImageTextToTextPipeline
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from tests.worker_process import TINY
from tests.workers.engine.conftest import image, make_prompt
from tests.workers.engine.videos import noise, scaled, transformers_own, video
from vqa.errors import InvalidJob
from vqa.images.video_fit import QWEN3_VL, VideoFit
from workers.engine.base import Turn
from workers.engine.model.loading import load
from workers.engine.model.video_processor import video_fit
from workers.engine.pipeline.encoding import Encoder
from workers.engine.settings import EngineSettings
from workers.engine.video import Video
from workers.media.request import VideoSampling
from workers.media.sampling import MIN_FRAMES, choose_frames


@pytest.fixture(scope="module")
def bundled() -> Any:
    """The pipeline of the model that ships, in float32 as transformers' processor, on any machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: False)
        return load(EngineSettings(model=str(TINY)))


@settings(deadline=None, max_examples=300)
@given(
    frames=st.integers(2, 256),
    width=st.integers(1, 4000),
    height=st.integers(1, 4000),
    least=st.integers(1, 200_000),
    most=st.integers(200_000, 30_000_000),
)
def test_sizes_are_those_of_smart_resize(frames: int, width: int, height: int, least: int, most: int) -> None:
    try:
        expected = smart_resize(frames, height, width, 2, 32, least, most)
    except (ValueError, ZeroDivisionError):
        # too long and narrow, which is refused before
        return

    assert VideoFit(32, least, most).for_frames(frames).size(width, height) == expected[::-1]


class Sizes(BaseVideoProcessor):
    """Tells to which size a video would be scaled."""

    def resize(self, image: Any, size: Any, **_: Any) -> Any:
        return size.width, size.height


class VideoSizes(Qwen3VLVideoProcessor, Sizes):
    """All else is transformers' own."""


@settings(deadline=None, max_examples=100)
@given(frames=st.integers(2, 64), width=st.integers(20, 999), height=st.integers(20, 999), cap=st.integers(4, 999))
def test_the_limit_of_a_frame_is_that_of_transformers(frames: int, width: int, height: int, cap: int) -> None:
    own: Any = VideoSizes(max_video_tokens=cap)
    limits = SizeDict(shortest_edge=4096, longest_edge=25_165_824)
    raw = torch.empty(1, frames, 3, height, width, device="meta")

    # get_num_of_video_patches of 5.17 leaves out the last of an odd number of frames
    expected = own.resize(raw, limits, resample=3, factor=32, temporal_factor=2, cap_pixels_per_frame=True)

    assert VideoFit(32, 4096, 25_165_824).for_frames(frames, cap * 32 * 32).size(width, height) == expected


def torchvision_is_there() -> bool:
    return importlib.util.find_spec("torchvision") is not None


@pytest.mark.parametrize(
    "torchvision",
    [
        pytest.param(False, id="all but torchvision"),
        pytest.param(
            True, marks=pytest.mark.skipif(not torchvision_is_there(), reason="needs torchvision"), id="torchvision"
        ),
    ],
)
@pytest.mark.parametrize("counts", [(4,), (5,), (2, 7), (64,)], ids=str)
def test_a_prompt_becomes_the_numbers_that_transformers_makes_of_it(
    counts: tuple[int, ...], torchvision: bool, bundled: Any
) -> None:
    fit = video_fit(bundled.processor)
    assert fit is not None
    raw = [[noise(100 * number + frame) for frame in range(count)] for number, count in enumerate(counts)]
    videos = [scaled(fit, frames) for frames in raw]
    parts: list[Any] = ["first ", image(1)]
    for each in videos:
        parts += [each, " and "]
    prompt = make_prompt("a", (Turn("user", (*parts, "what happens?")),), 4)

    made = Encoder(bundled, 4096).encode(prompt).tensors

    own = transformers_own(bundled.processor, str(TINY), torchvision)
    expected = by_transformers(own, prompt, raw)
    assert made.keys() == expected.keys()
    for name, tensor in made.items():
        # torchvision's filter and Pillow's differ in the last bit of some pixels
        atol = 2.1 / 255 if torchvision and name == "pixel_values_videos" else 1e-6
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=atol, check_dtype=True)


def by_transformers(own: Any, prompt: Any, raw: list[list[Any]]) -> dict[str, Any]:
    """The inputs that transformers makes of the frames as they were before they were scaled, at 3 a second."""
    videos = iter(raw)
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "video", "video": next(videos)}
        if isinstance(part, Video)
        else {"type": "image", "image": part.pil}
        for part in prompt.turns[0].parts
    ]
    metadata = [
        {"fps": 3.0, "frames_indices": list(range(len(frames))), "total_num_frames": len(frames)} for frames in raw
    ]
    made = own.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={
            "videos_kwargs": {"video_metadata": metadata, "do_sample_frames": False, "cap_pixels_per_frame": False}
        },
    )
    return dict(made)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_video_has_a_time_for_each_two_frames(frames: int, bundled: Any) -> None:
    prompt = make_prompt("a", (Turn("user", (video(bundled.processor, frames), "?")),), 4)

    made = Encoder(bundled, 4096).encode(prompt).tensors

    text = bundled.tokenizer.decode(made["input_ids"][0])
    assert text.count(" seconds>") == -(-frames // 2) == made["video_grid_thw"][0, 0].item()


@pytest.mark.parametrize(
    ("tokens", "pixels"), [(16, 16 * 2 * 1024), (4096, 65_536)], ids=["the setting's", "the model's"]
)
def test_a_video_has_at_most_the_tokens_of_the_worker(tokens: int, pixels: int) -> None:
    pipe: Any = load(EngineSettings(model=str(TINY), max_image_tokens=4, high_image_tokens=tokens))

    fit = video_fit(pipe.processor)

    assert fit is not None
    assert fit.max_pixels == pixels


def test_a_video_takes_at_most_three_quarters_of_a_slot() -> None:
    pipe: Any = load(EngineSettings(model=str(TINY), slot_tokens=64))

    fit = video_fit(pipe.processor)

    assert fit is not None
    assert fit.max_pixels == 48 * 2 * 1024 or fit.max_pixels == 65_536


def test_a_model_without_videos_says_so(bundled: Any) -> None:
    seen = video(bundled.processor, 2)
    pipe: ImageTextToTextPipeline = load(EngineSettings(model=str(TINY)))
    processor: Any = pipe.processor
    processor.video_processor = None

    with pytest.raises(InvalidJob, match="takes no videos; send frames as images"):
        Encoder(pipe, 4096).encode(make_prompt("a", (Turn("user", (seen,)),), 4))


@pytest.mark.parametrize("placed", [0, 1], ids=["none of two", "one of two"])
@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_template_without_a_place_for_all_images_and_videos_is_told(kind: str, placed: int, tmp_path: Path) -> None:
    folder = shutil.copytree(TINY, tmp_path / "model")
    template = (folder / "chat_template.jinja").read_text()
    place = f"'<|vision_start|><|{kind}_pad|><|vision_end|>'"
    assert place in template
    (folder / "chat_template.jinja").write_text(template.replace(place, f"({place} if loop.index0 < {placed} else '')"))
    pipe = load(EngineSettings(model=str(folder)))
    seen = image(1) if kind == "image" else video(pipe.processor, 2)

    with pytest.raises(InvalidJob):
        Encoder(pipe, 4096).encode(make_prompt("a", (Turn("user", (seen, seen, "what?")),), 4))


def test_frames_of_several_sizes_are_refused() -> None:
    with pytest.raises(InvalidJob, match="frame 2 has another"):
        Video((image(0), image(1)), (0.0, 1.0))


@settings(deadline=None, max_examples=200)
@given(
    total=st.integers(1, 3000),
    rate=st.integers(1, 60),
    fps=st.sampled_from([0.1, 0.5, 1.0, 2.0, 3.0]),
    most=st.integers(4, 64),
)
def test_of_even_frames_those_are_taken_that_transformers_takes(total: int, rate: int, fps: float, most: int) -> None:
    own: Any = Qwen3VLVideoProcessor(max_frames=most, min_frames=MIN_FRAMES)
    expected = own.sample_frames(VideoMetadata(total, fps=float(rate)), fps=fps).tolist()

    made = choose_frames([number / rate for number in range(total)], total / rate, VideoSampling(fps, most, QWEN3_VL))

    assert len(made) == len(expected)
    # of a time half way between two frames, either
    assert all(abs(one - other) <= 1 for one, other in zip(made, expected, strict=True))
    spaces = {after - before for before, after in pairwise(made)}
    assert not spaces or max(spaces) - min(spaces) <= 2
