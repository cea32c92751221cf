"""The text of an API key: `vqa_`, 30 random characters and a checksum of 6, as GitHub's tokens have it.

Secret scanners find keys by prefix and checksum, and a mistyped key is refused without a look into Redis.
"""

from __future__ import annotations

import hashlib
import secrets
import string
import zlib

PREFIX = "vqa_"
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
#: 178 random bits
_RANDOM = 30
#: 62**6 exceeds 2**32, so that each CRC32 fits
_CHECKSUM = 6


def new_api_key() -> str:
    """Return a new random key."""
    random = "".join(secrets.choice(_BASE62) for _ in range(_RANDOM))
    return f"{PREFIX}{random}{_checksum(random)}"


def is_well_formed(key: str) -> bool:
    """Return whether the text is a key, known or not: its checksum is right."""
    body = key.removeprefix(PREFIX)
    if body == key or len(body) != _RANDOM + _CHECKSUM or not body.isascii() or not body.isalnum():
        return False
    return _checksum(body[:_RANDOM]) == body[_RANDOM:]


def digest_of(key: str) -> str:
    """Return what is stored in place of the key: its SHA-256, in hexadecimal.

    A slow hash as for passwords would add nothing: nobody guesses 178 random bits.
    """
    return hashlib.sha256(key.encode()).hexdigest()


def _checksum(random: str) -> str:
    """Return the CRC32 in base 62, with leading zeros."""
    number, digits = zlib.crc32(random.encode()), ""
    for _ in range(_CHECKSUM):
        number, digit = divmod(number, len(_BASE62))
        digits = _BASE62[digit] + digits
    return digits
