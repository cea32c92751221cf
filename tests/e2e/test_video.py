"""What a worker refuses as a video."""

import io

from PIL import Image

from producer import Client
from tests.e2e.videos import about, outcomes, png
from tests.worker_process import StartWorker
from tests.workers.media.video_files import animation
from vqa import Answer, BadImage, InvalidJob


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
