"""The allow-list of buckets, VQA_FETCH_BUCKETS, and the names of objects in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from vqa.errors import BadImage

_FORM = re.compile(r"(s3|gs|az|oss)://([a-z0-9][a-z0-9._-]{1,62})(?:/(.*))?", re.IGNORECASE)

#: what no sane key has; a store might normalise it to another key
_ODD = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]|(^|/)\.{0,2}(/|$)")


@dataclass(frozen=True, slots=True)
class ObjectAddress:
    """An object in a bucket. The key is literal: nothing in it is decoded, as in the stores' own tools."""

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}"


def parse_object_address(text: str) -> ObjectAddress:
    """Parse `SCHEME://BUCKET/KEY`. Raises BadImage, whose message does not quote the key."""
    form = _FORM.fullmatch(text)
    if form is None or not form[3]:
        raise BadImage("the image's address is not of the form s3://BUCKET/KEY (gs, az, oss)")
    if len(form[3]) > 1024 or _ODD.search(form[3]):
        raise BadImage(f"{form[1].lower()}://{form[2]}: the object's key is not valid")
    return ObjectAddress(form[1].lower(), form[2], form[3])


@dataclass(frozen=True, slots=True)
class AllowedBuckets:
    """The buckets and prefixes that images are read from."""

    #: scheme, bucket, and prefix without a slash at its end
    prefixes: tuple[tuple[str, str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read entries separated by commas. Raises ValueError."""
        found = []
        for entry in filter(None, map(str.strip, text.split(","))):
            form = _FORM.fullmatch(entry)
            prefix = (form[3] or "").rstrip("/") if form else ""
            if form is None or (prefix and _ODD.search(prefix)):
                raise ValueError(f"{entry}: not of the form s3://BUCKET/PREFIX (gs, az, oss)")
            found.append((form[1].lower(), form[2], prefix))
        return cls(tuple(found))

    def check(self, address: ObjectAddress) -> None:
        """Raises BadImage if the object is not allowed."""
        for scheme, bucket, prefix in self.prefixes:
            below = not prefix or address.key.startswith(f"{prefix}/")
            if (scheme, bucket) == (address.scheme, address.bucket) and below:
                return
        raise BadImage(f"images are not read from this part of {address}: VQA_FETCH_BUCKETS does not allow it")
