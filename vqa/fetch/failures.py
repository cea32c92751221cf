"""What goes wrong below HTTP and in it, in words of our own: the library's quote addresses and what a server sends."""

from __future__ import annotations

import ssl

import httpcore2

from vqa.errors import BadImage
from vqa.fetch.retry import Transient
from vqa.net.bounded import ResponseTooLong
from vqa.net.guarded import AddressRefused, HostUnknown

FAILURES = (
    httpcore2.NetworkError,
    httpcore2.TimeoutException,
    httpcore2.ProtocolError,
    httpcore2.UnsupportedProtocol,
    httpcore2.ConnectionNotAvailable,
    ssl.SSLError,
    OSError,
)


def translated(name: str, error: Exception, redirected: bool, private: bool) -> BadImage | Transient:
    """Return what to raise instead of one of FAILURES; the message begins with `name`, the host that was asked for.

    Unless `private` addresses are allowed, a host that does not exist is told like one inside: else strangers could
    list the names of the inside.
    """
    if isinstance(error, AddressRefused) or (isinstance(error, HostUnknown) and not private):
        how = "redirects to a host with" if redirected else "has"
        return BadImage(f"{name}: the host {how} an address that is not public, or none (VQA_FETCH_PRIVATE)")
    if isinstance(error, ResponseTooLong):
        return BadImage(f"{name}: the server's response has headers without end")
    if _is_certificate(error):
        return BadImage(f"{name}: the server's certificate is not valid for this host, or not trusted")
    if isinstance(error, httpcore2.ConnectTimeout | httpcore2.ConnectError):
        return Transient(f"{name}: the host cannot be resolved or connected to")
    if isinstance(error, httpcore2.ProtocolError):
        return Transient(f"{name}: the server's response is not valid HTTP, or ends too early")
    return Transient(f"{name}: the connection fails")


def _is_certificate(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
