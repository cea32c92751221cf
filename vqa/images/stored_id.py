"""Ids of images that were stored once, to be asked about many times: `img_`, the owner's tag, and a random part."""

from __future__ import annotations

import re

_STORED_ID = re.compile(r"img_[0-9a-f]{12}_[0-9a-f]{24}")


def is_stored_id(text: str) -> bool:
    """Return whether `text` has the form of a stored image's id."""
    return _STORED_ID.fullmatch(text) is not None
