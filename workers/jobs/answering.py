"""Answering a leased job: fetch and decode its images, build the prompt, wait for the engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

from vqa.answer import Answer, SeenImage, Timings, Usage
from vqa.errors import DeadlineExceeded, PromptTooLong
from vqa.images.fit import Fit
from vqa.images.pages import page_range
from vqa.jobs.job import Job
from vqa.jobs.message import ImagePart, TextPart, VideoPart
from vqa.ledger.records import Lease
from workers.engine.base import Completion, Engine, Prompt, Turn
from workers.engine.detail import ImageTokens
from workers.engine.image import RGBImage
from workers.engine.model.generation_config import SamplingDefaults
from workers.engine.video import Video
from workers.jobs.alternatives import alternatives
from workers.jobs.image_source import ImageSource
from workers.jobs.leases import Leases
from workers.jobs.permits import Permit
from workers.jobs.sampling import answer_logprobs, sampling_params
from workers.jobs.shrinking import Images, Requests, explain, image_tokens, smaller_requests
from workers.jobs.text_buffer import OnShow
from workers.jobs.text_writer import OnText, TextWriter
from workers.jobs.videos import VideoRequests, Videos, VideoTokens, requests_for, seen_video, smaller_videos, video_of
from workers.media.pool import DecoderPool, Fetch
from workers.media.request import ImageRequest

#: times that a job's images are decoded again, smaller; once is enough unless they round to other sizes than expected
_MOST_SHRINKS = 3


@dataclass(frozen=True, slots=True, eq=False)
class _Attempt:
    job: Job
    lease: Lease
    #: on the clock of `time.monotonic()`
    started: float
    #: from the name of an image to its bytes
    fetch: Fetch
    #: None if nobody reads the answer while it is generated
    on_text: OnText | None
    permit: Permit

    @property
    def deadline(self) -> float:
        return self.started + self.lease.remaining_s


@dataclass(frozen=True)
class Answering:
    """Answers jobs; one instance per process, shared by its threads."""

    worker: str
    images: ImageSource
    media: DecoderPool
    engine: Engine
    leases: Leases
    texts: TextWriter
    #: set after the first answer: the card works
    answered: threading.Event = field(default_factory=threading.Event)
    #: the most of an image, by detail
    tokens: ImageTokens = field(default_factory=ImageTokens)
    #: VQA_VIDEO_MAX_FRAMES
    video_max_frames: int = 64
    #: what filters a job's text while it is generated
    on_show: Callable[[Job], OnShow | None] = lambda job: None
    #: VQA_CACHE_SALT=tenant: jobs of several tenants, and those without one, share no prefixes
    salt_by_tenant: bool = False
    #: VQA_SAMPLING_DEFAULTS: for jobs that do not say how tokens are chosen
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)

    def answer(self, job: Job, lease: Lease, permit: Permit, started: float) -> Answer:
        """Answer a leased job, whose thread holds its `permit`; the attempt `started` at that monotonic time.

        Raises VQAError, and one of REDIS_ERRORS if its images cannot be fetched.
        """
        requests = {part: self._request(part, job) for part in job.images()}
        videos = {part: self._video_requests(part, job) for part in job.videos()}
        wanted, caller = partial(self.leases.holds, lease), job.tenant or job.id
        opened = self.images.opened(job.contents(), started + lease.remaining_s, wanted, caller)
        with ExitStack() as stack:
            with permit.waiting():
                fetch = stack.enter_context(opened)
            on_text = stack.enter_context(self.texts.writing(lease, self.on_show(job)))
            attempt = _Attempt(job, lease, started, fetch, on_text, permit)
            return self._decode_and_answer(attempt, requests, videos, _MOST_SHRINKS * job.shrink_images)

    def _decode_and_answer(
        self, attempt: _Attempt, requests: Requests, video_requests: VideoRequests, shrinks: int
    ) -> Answer:
        """Answer with the images of these requests, or with smaller ones, which are tried up to `shrinks` times."""
        job, fit = attempt.job, self.engine.fit
        with self._decoded(attempt, requests, video_requests) as (images, videos):
            try:
                return self._answer(attempt, images, videos)
            except PromptTooLong as error:
                tokens = VideoTokens.count(job, videos, self.engine.video_fit)
                own, scale = tokens.divide(error, image_tokens(job, images, fit) if fit else 0)
                smaller = smaller_requests(requests, job, images, fit, own) if shrinks else None
                smaller_frames = smaller_videos(video_requests, videos, scale)
                if smaller is None or smaller_frames is None:
                    raise explain(tokens.explain(error), job, images, fit) from None
        # the larger images are not held while a job waits for memory for the smaller ones, or it might wait for ever
        del images, videos
        return self._decode_and_answer(attempt, smaller, smaller_frames, shrinks - 1)

    @contextmanager
    def _decoded(
        self, attempt: _Attempt, requests: Requests, video_requests: VideoRequests
    ) -> Iterator[tuple[Images, Videos]]:
        # each distinct image is decoded once
        distinct = list(dict.fromkeys([*requests.values(), *chain.from_iterable(video_requests.values())]))
        with ExitStack() as stack:
            with attempt.permit.waiting():
                decoded = stack.enter_context(self.media.decoded(distinct, attempt.deadline, attempt.fetch))
            found = dict(zip(distinct, decoded, strict=True))
            videos = {
                part: video_of(part, [image for request in some for image in found[request]])
                for part, some in video_requests.items()
            }
            yield {part: found[request] for part, request in requests.items()}, videos

    def _request(self, part: ImagePart, job: Job) -> ImageRequest:
        """Raises InvalidJob."""
        fit, tokens = self.engine.fit, self.tokens.most(part.detail, job.max_image_tokens)
        return ImageRequest(part.image, tokens * fit.factor**2 if fit else None, page_range(part.pages))

    def _video_requests(self, part: VideoPart, job: Job) -> tuple[ImageRequest, ...]:
        """Raises InvalidJob."""
        frame_tokens = self.tokens.most(part.detail, job.max_image_tokens)
        return requests_for(part, self.engine.video_fit, self.video_max_frames, frame_tokens)

    def _answer(self, attempt: _Attempt, images: Images, videos: Videos) -> Answer:
        job, lease, started = attempt.job, attempt.lease, attempt.started
        prompt = Prompt(
            id=lease.id,
            turns=_turns(job, images, videos),
            params=sampling_params(job, self.sampling),
            lane=lease.header.lane,
            deadline=attempt.deadline,
            attempt=lease.header.attempt,
            alone=lease.header.alone,
            metadata=job.metadata,
            cache_salt=(job.tenant or "") if self.salt_by_tenant else "",
            on_text=attempt.on_text,
        )
        media_s = time.monotonic() - started
        completion = self._complete(attempt, prompt)
        self.answered.set()
        elapsed_s = time.monotonic() - started
        return Answer(
            id=lease.id,
            text=completion.text,
            parsed=job.parse(completion.text),
            reasoning=completion.reasoning,
            logprobs=answer_logprobs(job, completion),
            alternatives=alternatives(job, completion),
            choices=completion.choices,
            images=_seen(prompt.images, completion, self.engine.fit),
            videos=tuple(seen_video(video, fit) for video in prompt.videos if (fit := self.engine.video_fit)),
            finish_reason=completion.finish_reason,
            usage=Usage(
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
                cached_tokens=completion.cached_tokens,
                reasoning_tokens=completion.reasoning_tokens,
            ),
            timings=Timings(
                queued_s=lease.queued_s,
                media_s=round(media_s, 4),
                engine_s=round(elapsed_s - media_s, 4),
                total_s=round(lease.queued_s + elapsed_s, 4),
                slot_wait_s=round(completion.slot_wait_s, 4),
                prefill_s=round(completion.prefill_s, 4),
                decode_s=round(completion.decode_s, 4),
            ),
            model=self.engine.model,
            worker=self.worker,
            attempt=lease.header.attempt,
            last_error=lease.header.error,
        )

    def _complete(self, attempt: _Attempt, prompt: Prompt) -> Completion:
        future = self.engine.submit(prompt)
        # if the job was closed before `submit`, the engine did not know the id when it was told to cancel it
        if not self.leases.holds(attempt.lease):
            self.engine.cancel(prompt.id)
        try:
            with attempt.permit.answered():
                return future.result(timeout=max(0.0, prompt.deadline - time.monotonic()))
        except FutureTimeout:
            # the engine ends overdue prompts itself, unless its threads are starved or hang
            self.engine.cancel(prompt.id)
            raise DeadlineExceeded("the job's timeout ran out while it was being answered") from None


def _turns(job: Job, images: Images, videos: Videos) -> tuple[Turn, ...]:
    return tuple(
        Turn(message.role, tuple(each for part in message.content for each in _parts(part, images, videos)))
        for message in job.messages
    )


def _parts(part: TextPart | ImagePart | VideoPart, images: Images, videos: Videos) -> Sequence[str | RGBImage | Video]:
    if isinstance(part, TextPart):
        return (part.text,)
    return (videos[part],) if isinstance(part, VideoPart) else images[part]


def _seen(images: Sequence[RGBImage], completion: Completion, fit: Fit | None) -> tuple[SeenImage, ...]:
    unknown = (None,) * len(images)
    # an engine without a model sees none
    sizes = completion.image_sizes or unknown
    tokens = completion.image_tokens or tuple(fit.tokens(*size) if fit and size else None for size in sizes)
    return tuple(
        SeenImage(
            width=size and size[0],
            height=size and size[1],
            source_width=image.source_width,
            source_height=image.source_height,
            frames=image.frames,
            page=image.page,
            pages=image.pages,
            tokens=count,
        )
        for image, size, count in zip(images, sizes, tokens, strict=True)
    )
