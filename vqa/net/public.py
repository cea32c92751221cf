"""Tells public addresses of the Internet from all others, in every form that they are written in."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

#: what IANA assigns to networks; the rest of IPv6 is local, reserved or a form of IPv4
_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
#: interface identifiers of ISATAP (RFC 5214), which are followed by an IPv4 address
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)

#: global, say some of the releases of Python that we support: IETF's protocols, 6to4's relays, documentation
_SPECIAL = (IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24"), IPv6Network("3fff::/20"))

#: global by its range, but answered by the host of a virtual machine: Azure's WireServer
_PLATFORM = IPv4Address("168.63.129.16")


def is_public(text: str) -> bool:
    """Return whether the address, as `getaddrinfo` writes it, is a unicast address that is routed on the Internet.

    An IPv6 address that contains IPv4 addresses (IPv4-mapped, NAT64, 6to4, Teredo, ISATAP) is public only if those are,
    too. A NAT64 prefix that a network has chosen itself cannot be recognised.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv4Address):
        return _is_global(address) and address != _PLATFORM
    if address.ipv4_mapped is not None:
        return is_public(str(address.ipv4_mapped))
    contained = _contained(address)
    reachable = address in _NAT64 or (address in _UNICAST and _is_global(address))
    return reachable and all(is_public(str(each)) for each in contained)


def is_local_host(host: str) -> bool:
    """Return whether a URL's host is an address that is not public, or this machine's name; resolves no name."""
    name = host.strip("[]").rstrip(".").lower()
    try:
        ip_address(name)
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
    return not is_public(name)


def _is_global(address: IPv4Address | IPv6Address) -> bool:
    special = any(address in network for network in _SPECIAL if network.version == address.version)
    return address.is_global and not address.is_multicast and not address.is_reserved and not special


def _contained(address: IPv6Address) -> list[IPv4Address]:
    number = int(address)
    if address in _NAT64 or number >> 32 & 0xFFFF_FFFF in _ISATAP:
        return [IPv4Address(number & 0xFFFF_FFFF)]
    if address.sixtofour is not None:
        return [address.sixtofour]
    return list(address.teredo or ())
