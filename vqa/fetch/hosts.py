"""The allow-list of hosts, VQA_FETCH_HOSTS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from vqa.errors import BadImage
from vqa.fetch.url import WebAddress, parse_web_address

#: stands for the name below which all are allowed while an entry is parsed
_ANY = "any"


@dataclass(frozen=True, slots=True)
class _Rule:
    """One entry."""

    #: http is allowed, too
    plain: bool
    #: "" for any host
    host: str
    #: names below `host` are allowed, instead of `host`
    below: bool
    #: None for the scheme's own, 0 for any
    port: int | None

    @classmethod
    def parse(cls, entry: str) -> Self:
        """Raises ValueError."""
        scheme, separator, rest = entry.rpartition("://")
        if separator and scheme.lower() not in ("http", "https"):
            raise ValueError(f"{entry}: an entry is a host, https://HOST or http://HOST")
        any_port = rest.endswith(":*")
        wild = rest.removesuffix(":*")
        below = wild.startswith("*.")
        text = wild.removeprefix("*.") if below else _ANY + wild[1:] if wild.startswith("*") else wild
        try:
            # as https, so that a port of 80 is not taken for none
            address = parse_web_address(f"https://{text}/")
        except BadImage:
            raise ValueError(f"{entry}: not a host such as images.example.com, *.example.com, or *") from None
        if address.target != "/" or (wild.startswith("*") and not below and address.host != _ANY):
            raise ValueError(f"{entry}: an entry is a host, perhaps with a port, and no path")
        named = text.rpartition("]")[2].partition(":")[2]
        port = 0 if any_port else address.port if named else None
        return cls(scheme.lower() == "http", "" if wild.startswith("*") and not below else address.host, below, port)

    def allows(self, address: WebAddress) -> bool:
        if address.scheme == "http" and not self.plain:
            return False
        if self.port != address.port if self.port else self.port is None and not address.has_default_port:
            return False
        if not self.host:
            return True
        return address.host.endswith(f".{self.host}") if self.below else address.host == self.host


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """The hosts that images are fetched from; none of them if there are no rules."""

    rules: tuple[_Rule, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read entries separated by commas: `HOST`, `*.DOMAIN` or `*`, each perhaps with `:PORT` or `:*`.

        An entry that starts with `http://` allows http, too; without a port only 443 and 80 are allowed. Raises
        ValueError.
        """
        return cls(tuple(_Rule.parse(entry) for each in text.split(",") if (entry := each.strip())))

    def check(self, address: WebAddress) -> None:
        """Raises BadImage if the address is not allowed."""
        if any(rule.allows(address) for rule in self.rules):
            return
        if not self.rules:
            raise BadImage("images are not fetched from URLs here: VQA_FETCH_HOSTS allows no host")
        where = f"{address.scheme}://{address.host}" if address.scheme == "http" else address.host
        port = "" if address.has_default_port else f":{address.port}"
        raise BadImage(f"images are not fetched from {where}{port}: VQA_FETCH_HOSTS does not allow it")
