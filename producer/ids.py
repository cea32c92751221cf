"""Ids that name their owner, so that no record is needed to tell whose a job, an image, a file or a batch is."""

from __future__ import annotations

import hashlib
import re
import secrets

#: hexadecimal digits of the owner's tag, and of the random part
_TAG_DIGITS, _RANDOM_DIGITS = 12, 24

_RANDOM = re.compile(rf"[0-9a-f]{{{_RANDOM_DIGITS}}}")


def new_id(prefix: str, tenant: str | None) -> str:
    """Return an id such as `batch_3f2a90c1d45e_5c0f...` that belongs to the tenant."""
    return f"{prefix}_{owner_tag(tenant)}_{secrets.token_hex(_RANDOM_DIGITS // 2)}"


def is_owner(id: str, prefix: str, tenant: str | None) -> bool:
    """Return whether this is an id, has this prefix and belongs to the tenant.

    The tag is no secret: an id grants nothing, it is only compared with the caller's tenant. What only begins like an
    id is none: a file's id and `:0` would name a key of Redis that holds a caller's own bytes.
    """
    head = f"{prefix}_{owner_tag(tenant)}_"
    return id.startswith(head) and _RANDOM.fullmatch(id, len(head)) is not None


def owner_tag(tenant: str | None) -> str:
    """Return the part of an id that names its tenant; callers without one share a tag."""
    return hashlib.sha256((tenant or "").encode()).hexdigest()[:_TAG_DIGITS]
