"""Shrinks the images of jobs before they are submitted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import cast

from producer.client.submission import PreparedJob
from producer.images.shrinkable import details_of_job
from producer.images.shrinker import Shrinker
from vqa.images.fit import Fit
from vqa.images.store import reference

#: an image, and the sizes at which it is seen
_Wanted = tuple[bytes, Fit]


def shrink_jobs(jobs: Sequence[PreparedJob], shrinker: Shrinker) -> list[PreparedJob]:
    """Return the jobs with images that are no larger than they will be seen; equal ones are shrunk once."""
    by_job = [dict(_wanted(prepared, shrinker)) for prepared in jobs]
    distinct = list(dict.fromkeys(wanted for each in by_job for wanted in each.values()))
    if len(distinct) < 2:
        smaller = [shrinker.shrink(*wanted) for wanted in distinct]
    else:
        with ThreadPoolExecutor(min(os.cpu_count() or 1, len(distinct)), "vqa-shrinking") as threads:
            smaller = list(threads.map(lambda wanted: shrinker.shrink(*wanted), distinct))
    found = dict(zip(distinct, smaller, strict=True))
    return [_with_images(prepared, wanted, found) for prepared, wanted in zip(jobs, by_job, strict=True)]


def _wanted(prepared: PreparedJob, shrinker: Shrinker) -> Iterator[tuple[bytes | str, _Wanted]]:
    for image, detail in details_of_job(prepared.job).items():
        data = image if isinstance(image, bytes) else prepared.images.get(image)
        fit = None if data is None else shrinker.fit(detail, prepared.job.max_image_tokens)
        if data is not None and fit is not None:
            yield image, (data, fit)


def _with_images(
    prepared: PreparedJob, wanted: Mapping[bytes | str, _Wanted], smaller: Mapping[_Wanted, bytes]
) -> PreparedJob:
    found = {image: smaller[each] for image, each in wanted.items() if smaller[each] is not each[0]}
    if not found:
        return prepared
    names = {image: reference(data) for image, data in found.items()}
    images = {name: data for name, data in prepared.images.items() if name not in found}
    images |= {names[image]: data for image, data in found.items()}
    job = prepared.job.with_images(cast(Mapping[str, str], names))
    return replace(prepared, job=job, images=images)
