"""Makes the images of a prompt that is too long smaller, or says what would make it fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from vqa.errors import PromptTooLong
from vqa.images.fit import Fit
from vqa.jobs.job import Job
from vqa.jobs.message import ImagePart
from workers.engine.image import RGBImage
from workers.jobs.sizing import Shown, at_scale, even_bound, even_scale
from workers.media.request import ImageRequest

#: how each image of a job is decoded, and what came of it: several images if its file has pages
Requests = Mapping[ImagePart, ImageRequest]
Images = Mapping[ImagePart, tuple[RGBImage, ...]]


def smaller_requests(
    requests: Requests, job: Job, images: Images, fit: Fit | None, error: PromptTooLong
) -> Requests | None:
    """Return requests for evenly smaller images, with which the prompt would fit; None if it would with none.

    All images are scaled by one factor, from the size at which they were seen; the pages of a file share a limit.
    """
    if fit is None or error.excess is None:
        return None
    room = image_tokens(job, images, fit) - error.excess
    scale = even_scale(list(_shown(job, images)), fit, room)
    if scale is None:
        return None
    return {
        part: replace(request, max_pixels=at_scale(_most_pixels(images[part]), scale, fit))
        for part, request in requests.items()
    }


def explain(error: PromptTooLong, job: Job, images: Images, fit: Fit | None) -> PromptTooLong:
    """Return the error of a prompt that was not or cannot be shrunk, with what its images have to do with it."""
    if error.excess is None or not images or fit is None:
        return error
    tokens = image_tokens(job, images, fit)
    message = f"{error}; {sum(1 for _ in _shown(job, images))} images take {tokens} of them"
    bound = even_bound(list(_shown(job, images)), fit, tokens - error.excess)
    if bound is None:
        return PromptTooLong(f"{message}, and they cannot be made small enough: send fewer of them")
    advice = [f"max_image_tokens={bound}"]
    if not job.shrink_images:
        advice.insert(0, "shrink_images")
    if any(part.detail != "low" for part in images):
        advice.append("a lower detail")
    return PromptTooLong(f"{message}: set {' or '.join(advice)}")


def _shown(job: Job, images: Images) -> Iterable[Shown]:
    """Yield the images as the prompt shows them, one that is shown twice also here."""
    for part in job.images():
        most = _most_pixels(images[part])
        for image in images[part]:
            yield Shown(image.source_width or image.width, image.source_height or image.height, most)


def _most_pixels(images: Iterable[RGBImage]) -> int:
    return max(image.width * image.height for image in images)


def image_tokens(job: Job, images: Images, fit: Fit) -> int:
    """Return how many tokens the images have in the prompt."""
    return sum(fit.tokens(image.width, image.height) for part in job.images() for image in images[part])
