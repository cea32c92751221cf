"""The index of images in a folder or bucket, in Redis: when each may be deleted (index.lua)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib.resources import files
from itertools import chain, islice
from typing import Any, Literal, cast

from redis import Redis

IMAGES = "vqa:images"
GOING = "vqa:images:going"

#: seconds after which a deletion has ended; one request to the folder or bucket takes a third of this at most
DELETION_S = 30.0

#: images in one call, so that Redis is not blocked
_PAGE = 1000

_SCRIPT = files("vqa.images.stores").joinpath("index.lua").read_text(encoding="utf-8")

State = Literal["new", "known", "absent", "going"]


class Index:
    """Access over a synchronous connection; each but `keep` is one call. Methods raise redis.exceptions.RedisError."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def keep(self, keep_s: Mapping[str, int], enter: Collection[str]) -> dict[str, State]:
        """Keep images for at least so many seconds from now; those in `enter` also if they are unknown.

        One that is `going` is not entered: ask again until it is gone.
        """
        found: dict[str, State] = {}
        rest = iter(keep_s.items())
        while page := [*islice(rest, _PAGE)]:
            arguments = chain.from_iterable(("1" if name in enter else "", s * 1000, name) for name, s in page)
            for (name, _), state in zip(page, cast(list[bytes], self._run("keep", *arguments)), strict=True):
                found[name] = cast(State, state.decode())
        return found

    def known(self, references: Sequence[str]) -> list[str]:
        """Return those of the images that are entered, and not being deleted."""
        scores = self._redis.zmscore(IMAGES, list(references)) if references else []
        return [name for name, score in zip(references, scores, strict=True) if score is not None]

    def claim(self, limit: int) -> tuple[int, list[str]]:
        """Claim up to `limit` images for deletion; return the claim's time in ms, and the references."""
        claimed, references = self._run("claim", limit)
        return int(claimed), [reference.decode() for reference in references]

    def may_delete(self, claimed: int, reference: str) -> bool:
        """Return whether the claim holds, and for long enough to delete the image."""
        return bool(self._run("may_delete", claimed, reference))

    def deleted(self, claimed: int, reference: str) -> None:
        """Release the claim: the image is gone."""
        self._run("deleted", claimed, reference)

    def counts(self) -> tuple[int, int]:
        """Return how many images are kept, and how many are being deleted."""
        return self._redis.zcard(IMAGES), self._redis.zcard(GOING)

    def _run(self, verb: str, *arguments: str | int) -> Any:
        # EVAL, as producers may not load scripts; it is sent once for a whole chunk of jobs
        return self._redis.eval(_SCRIPT, 2, IMAGES, GOING, verb, round(DELETION_S * 1000), *arguments)
