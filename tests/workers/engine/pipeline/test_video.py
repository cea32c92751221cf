"""Videos in the pipeline engine."""

from __future__ import annotations

from typing import Any

from tests.workers.engine.conftest import Starting, answers, ask, make_prompt
from tests.workers.engine.videos import video
from workers.engine.base import Prompt, Turn
from workers.engine.pipeline.engine import PipelineEngine
from workers.engine.video import Video


def about(engine: PipelineEngine, frames: int) -> Prompt:
    assert engine.video_fit is not None
    seen: Video = video(_Processor(engine), frames, first=100 * frames)
    return make_prompt(f"video-{frames}", (Turn("user", (seen, "what happens?")),))


class _Processor:
    """As far as a test's video needs it."""

    def __init__(self, engine: PipelineEngine) -> None:
        pool: Any = engine._encoder_pool
        encoder = pool._encoders.get()
        pool._encoders.put(encoder)
        self.video_processor = encoder.processor.video_processor


def test_a_video_gets_the_same_answer_alone_and_beside_others(starting: Starting, together: list[int]) -> None:
    engine = starting(microbatch=4)
    prompts = [about(engine, frames) for frames in (2, 3, 6, 8)]
    alone = [answers(engine, [prompt])[0] for prompt in prompts]
    together.clear()

    assert answers(engine, prompts) == alone
    assert together == [4]
    assert len({completion.text for completion in alone}) == 4


def test_videos_and_images_of_one_batch_are_kept_apart(starting: Starting) -> None:
    engine = starting(microbatch=4)
    prompts = [about(engine, 4), ask(1), about(engine, 2), ask(2)]
    alone = [answers(engine, [prompt])[0] for prompt in prompts]

    assert answers(engine, prompts) == alone
