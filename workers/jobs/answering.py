"""Answering a leased job: fetch and decode its images, build the prompt, wait for the engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field

from vqa.answer import Answer, SeenImage, Timings, Usage
from vqa.errors import DeadlineExceeded, InvalidJob
from vqa.images.pages import page_range
from vqa.images.store import ImageStore
from vqa.job import Job
from vqa.ledger.records import Lease
from vqa.message import ImagePart, TextPart, VideoPart
from workers.engine.base import Completion, Engine, Prompt, SamplingParams, Turn
from workers.engine.image import RGBImage
from workers.jobs.leases import Leases
from workers.jobs.text_writer import OnText, TextWriter
from workers.media.pool import DecoderPool
from workers.media.request import ImageRequest

#: the images of each file
_Images = Mapping[ImageRequest, tuple[RGBImage, ...]]


@dataclass(frozen=True)
class Answering:
    """Answers jobs; one instance per process, shared by its threads."""

    worker: str
    store: ImageStore
    media: DecoderPool
    engine: Engine
    leases: Leases
    texts: TextWriter
    #: set after the first answer: the card works
    answered: threading.Event = field(default_factory=threading.Event)

    def answer(self, job: Job, lease: Lease, started: float) -> Answer:
        """Answer a leased job; the attempt `started` at that monotonic time.

        Raises VQAError, and one of REDIS_ERRORS if its images cannot be fetched.
        """
        deadline = started + lease.remaining_s
        # each distinct image is fetched and decoded once
        requests = list(dict.fromkeys(_request(part) for part in job.images()))
        with (
            self.media.decoded(requests, deadline, self.store.get) as decoded,
            self.texts.writing(lease) as on_text,
        ):
            return self._answer(job, lease, dict(zip(requests, decoded, strict=True)), started, on_text)

    def _answer(self, job: Job, lease: Lease, images: _Images, started: float, on_text: OnText | None) -> Answer:
        prompt = Prompt(
            id=lease.id,
            turns=_turns(job, images),
            params=SamplingParams(job.max_new_tokens, job.temperature, job.top_p, job.seed, job.stop, job.grammar),
            lane=lease.header.lane,
            deadline=started + lease.remaining_s,
            attempt=lease.header.attempt,
            alone=lease.header.alone,
            metadata=job.metadata,
            on_text=on_text,
        )
        media_s = time.monotonic() - started
        completion = self._complete(lease, prompt)
        self.answered.set()
        elapsed_s = time.monotonic() - started
        return Answer(
            id=lease.id,
            text=completion.text,
            parsed=job.parse(completion.text),
            reasoning=completion.reasoning,
            images=_seen(prompt.images, completion.image_sizes),
            finish_reason=completion.finish_reason,
            usage=Usage(prompt_tokens=completion.prompt_tokens, completion_tokens=completion.completion_tokens),
            timings=Timings(
                queued_s=lease.queued_s,
                media_s=round(media_s, 4),
                engine_s=round(elapsed_s - media_s, 4),
                total_s=round(lease.queued_s + elapsed_s, 4),
            ),
            model=self.engine.model,
            worker=self.worker,
            attempt=lease.header.attempt,
            last_error=lease.header.error,
        )

    def _complete(self, lease: Lease, prompt: Prompt) -> Completion:
        future = self.engine.submit(prompt)
        # if the job was closed before `submit`, the engine did not know the id when it was told to cancel it
        if not self.leases.holds(lease):
            self.engine.cancel(prompt.id)
        try:
            return future.result(timeout=max(0.0, prompt.deadline - time.monotonic()))
        except FutureTimeout:
            # the engine ends overdue prompts itself, unless its threads are starved or hang
            self.engine.cancel(prompt.id)
            raise DeadlineExceeded("the job's timeout ran out while it was being answered") from None


def _request(part: ImagePart) -> ImageRequest:
    return ImageRequest(part.image, pages=page_range(part.pages))


def _turns(job: Job, images: _Images) -> tuple[Turn, ...]:
    return tuple(
        Turn(message.role, tuple(each for part in message.content for each in _parts(part, images)))
        for message in job.messages
    )


def _parts(part: TextPart | ImagePart | VideoPart, images: _Images) -> Sequence[str | RGBImage]:
    if isinstance(part, TextPart):
        return (part.text,)
    if isinstance(part, VideoPart):
        raise InvalidJob("this worker does not take videos")
    return images[_request(part)]


def _seen(images: Sequence[RGBImage], sizes: Sequence[tuple[int, int] | None]) -> tuple[SeenImage, ...]:
    # an engine without a model sees none
    known = sizes or (None,) * len(images)
    return tuple(
        SeenImage(
            width=size and size[0],
            height=size and size[1],
            source_width=image.source_width,
            source_height=image.source_height,
            frames=image.frames,
        )
        for image, size in zip(images, known, strict=True)
    )
