"""Ids that name their owner, so that no record is needed to tell whose a job, an image, a file or a batch is."""

from __future__ import annotations

import hashlib
import secrets

#: hexadecimal digits of the owner's tag, and of the random part
_TAG_DIGITS, _RANDOM_DIGITS = 12, 24


def new_id(prefix: str, tenant: str | None) -> str:
    """Return an id such as `batch_3f2a90c1d45e_5c0f...` that belongs to the tenant."""
    return f"{prefix}_{owner_tag(tenant)}_{secrets.token_hex(_RANDOM_DIGITS // 2)}"


def is_owner(id: str, prefix: str, tenant: str | None) -> bool:
    """Return whether the id has this prefix and belongs to the tenant.

    The tag is no secret: an id grants nothing, it is only compared with the caller's tenant.
    """
    return id.startswith(f"{prefix}_{owner_tag(tenant)}_")


def owner_tag(tenant: str | None) -> str:
    """Return the part of an id that names its tenant; callers without one share a tag."""
    return hashlib.sha256((tenant or "").encode()).hexdigest()[:_TAG_DIGITS]
