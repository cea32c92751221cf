"""Videos through the queue, with the model that ships: it was not trained on them, so only their form is checked."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from producer import Client
from tests.worker_process import TINY, StartWorker
from tests.workers.media.video_files import animation, frame, video_file
from vqa import Answer, BadImage, InvalidJob, Job, PromptTooLong
from vqa.errors import VQAError

WAIT_S = 100.0
MODEL = {"VQA_MODEL": str(TINY), "VQA_SLOTS": "16"}

_LONG = "why? " * 28

pytestmark = pytest.mark.timeout(240)


def png(number: int, size: tuple[int, int] = (200, 120)) -> bytes:
    buffer = io.BytesIO()
    frame(number, size).save(buffer, "PNG")
    return buffer.getvalue()


def about(part: dict[str, Any], id: str, question: str = "what colour is it?", **how: Any) -> Job:
    content = ({"type": "video", **part}, {"type": "text", "text": question})
    return Job(id=id, messages=({"role": "user", "content": content},), max_new_tokens=8, **how)


def outcomes(client: Client, *jobs: Job) -> dict[str, Answer | VQAError]:
    return dict(client.answers(client.submit_many(jobs), timeout_s=WAIT_S))


@pytest.mark.parametrize("engine", ["continuous", "pipeline"])
def test_frames_animations_and_video_files_are_answered(start_worker: StartWorker, client: Client, engine: str) -> None:
    start_worker(VQA_ENGINE=engine, VQA_SLOT_TOKENS="128", **MODEL)
    frames = [png(number) for number in range(5)]
    times_s = [0.0, 0.5, 1.0, 2.5, 4.0]
    # the same video, in files of several kinds
    jobs = [
        about({"frames": frames, "times_s": times_s}, "frames"),
        about({"frames": frames, "fps": 4}, "fps"),
        about({"video": animation("GIF", [100] * 30)}, "gif"),
        about({"video": animation("WEBP", [100] * 30), "max_frames": 3}, "webp"),
        about({"video": video_file(30)}, "mp4"),
        about({"frames": frames, "detail": "low"}, "small", max_image_tokens=4),
        # five tokens too many for a slot
        about({"frames": frames}, "shrunk", _LONG, shrink_images=True),
    ]

    found = outcomes(client, *jobs, about({"frames": frames}, "too-long", _LONG))

    too_long = found.pop("too-long")
    assert isinstance(too_long, PromptTooLong)
    assert "1 video takes 24 of them: send fewer frames, or set max_image_tokens" in str(too_long)

    answers = {id: each for id, each in found.items() if isinstance(each, Answer)}
    assert answers.keys() == {job.id for job in jobs}, found
    seen = {id: answer.videos[0] for id, answer in answers.items()}
    assert {id: each.frames for id, each in seen.items()} == {
        "frames": 5,
        "fps": 5,
        "gif": 6,
        "webp": 3,
        "mp4": 6,
        "small": 5,
        "shrunk": 5,
    }
    assert {(each.source_width, each.source_height) for each in seen.values()} == {(200, 120), (96, 64)}
    for id, each in seen.items():
        # two frames become one
        assert each.tokens == -(-each.frames // 2) * each.width * each.height // 32**2
        assert answers[id].images == ()
        assert answers[id].usage.prompt_tokens > each.tokens
    assert seen["frames"].tokens == 24
    assert seen["small"].tokens <= 3 * 4
    assert seen["small"].tokens < seen["shrunk"].tokens <= 19


def test_what_is_no_video_is_refused_by_name(start_worker: StartWorker, client: Client) -> None:
    start_worker(VQA_VIDEO_MAX_FRAMES="4")
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG")
    two_sizes = [png(0), png(1, (64, 64))]

    found = outcomes(
        client,
        about({"frames": [png(number) for number in range(5)]}, "many"),
        about({"frames": two_sizes}, "sizes"),
        about({"video": buffer.getvalue()}, "photo"),
        about({"video": animation("GIF", [100] * 90)}, "long"),
    )

    assert isinstance(found["many"], InvalidJob)
    assert "5 frames; the limit is 4 (VQA_VIDEO_MAX_FRAMES)" in str(found["many"])
    assert isinstance(found["sizes"], InvalidJob)
    assert "frame 2 has another" in str(found["sizes"])
    assert isinstance(found["photo"], BadImage)
    assert isinstance(found["long"], Answer)
    assert found["long"].videos[0].frames == 4
