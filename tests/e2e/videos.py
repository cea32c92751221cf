"""Jobs about videos."""

import io
from typing import Any

from producer import Client
from tests.workers.media.video_files import frame
from vqa import Answer, Job
from vqa.errors import VQAError

WAIT_S = 100.0


def png(number: int, size: tuple[int, int] = (200, 120)) -> bytes:
    buffer = io.BytesIO()
    frame(number, size).save(buffer, "PNG")
    return buffer.getvalue()


def about(part: dict[str, Any], id: str, question: str = "what colour is it?", **how: Any) -> Job:
    content = ({"type": "video", **part}, {"type": "text", "text": question})
    return Job(id=id, messages=({"role": "user", "content": content},), max_new_tokens=8, **how)


def outcomes(client: Client, *jobs: Job) -> dict[str, Answer | VQAError]:
    return dict(client.answers(client.submit_many(jobs), timeout_s=WAIT_S))
