"""Addresses of web servers, parsed once and strictly: only the parsed form is checked and connected to.

The parser is WHATWG's (the one of browsers), in Rust. What only some parsers accept, or read differently, is refused
before: then no two of them can disagree about the host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

from pydantic_core import Url, ValidationError

from vqa.errors import BadImage

#: characters; the job format's own limit
MAX_LENGTH = 8192

#: scheme, authority and the rest
_FORM = re.compile(r"(https?)://([^/?#]+)([/?#].*)?", re.IGNORECASE | re.DOTALL)

#: spaces, control characters and backslashes, which parsers drop or replace; lone surrogates, which no encoding has
_ODD = re.compile(r"[\s\x00-\x20\x7f-\x9f\\\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")

#: RFC 1123, and the underscore that real names have
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class WebAddress:
    """An http or https URL without user and fragment."""

    scheme: str
    #: in ASCII and lower case, without a dot at its end; an IPv6 address has no brackets
    host: str
    port: int
    #: path and query, in ASCII
    target: str

    @property
    def has_default_port(self) -> bool:
        return self.port == _PORTS[self.scheme]

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}{'' if self.has_default_port else f':{self.port}'}{self.target}"


def parse_web_address(text: str) -> WebAddress:
    """Parse an http or https URL. Raises BadImage, whose message quotes nothing of it."""
    if len(text) > MAX_LENGTH:
        raise BadImage(f"the image's URL has over {MAX_LENGTH:,} characters")
    if _ODD.search(text):
        raise BadImage("the image's URL contains a space, control character or backslash; write it as %20 and the like")
    if (form := _FORM.fullmatch(text)) is None:
        raise BadImage("the image's URL is not of the form https://HOST/PATH")
    authority = form[2]
    if "@" in authority:
        raise BadImage("the image's URL contains a user or a password, which are not sent")
    if "%" in authority:
        raise BadImage("the host of the image's URL contains a %: neither encoded names nor zones are allowed")
    try:
        url = Url(text)
    except (ValidationError, ValueError):
        raise BadImage("the image's URL is not valid: its host or port") from None
    return _checked(url, authority)


def _checked(url: Url, authority: str) -> WebAddress:
    host, port = url.host or "", url.port or 0
    if not port:
        raise BadImage("the image's URL names the port 0")
    if host.startswith("["):
        host = str(ip_address(host.strip("[]")))
    elif _is_ipv4(host):
        # 127.1, 0x7f000001, 017700000001 and full-width digits are read as IPv4 addresses, too
        if re.fullmatch(re.escape(host) + r"(:[0-9]*)?", authority) is None:
            raise BadImage("the host of the image's URL must be a name, or an address of four decimal numbers")
    else:
        host = host.removesuffix(".")
        if len(host) > 253 or _NAME.fullmatch(host) is None:
            raise BadImage("the host of the image's URL is not a valid name")
    return WebAddress(url.scheme, host, port, (url.path or "/") + (f"?{url.query}" if url.query else ""))


def _is_ipv4(host: str) -> bool:
    try:
        IPv4Address(host)
    except ValueError:
        return False
    return True
