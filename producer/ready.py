"""A job whose pictures were read and checked before it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import PrivateAttr

from vqa.job import Job


class Ready(Job):
    """Names its pictures by reference and brings their bytes along; they are neither checked nor hashed again."""

    _brought: Mapping[str, bytes] = PrivateAttr(default_factory=dict)

    @classmethod
    def of(cls, job: Job, brought: Mapping[str, bytes]) -> Self:
        """The job with the bytes of the pictures that it names, by reference."""
        ready = cls.model_construct(_fields_set=set(job.model_fields_set), **dict(job))
        ready._brought = brought
        return ready


def brought_by(job: Job) -> Mapping[str, bytes]:
    """The pictures that come with a job, by reference."""
    return job._brought if isinstance(job, Ready) else {}


def weight(job: Job) -> int:
    """Bytes of pictures that sending the job takes, nearly."""
    return sum(len(part.image) for part in job.images()) + sum(map(len, brought_by(job).values()))
