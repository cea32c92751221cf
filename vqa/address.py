"""Where Redis is: VQA_REDIS_URL read once, and written again as redis-py and Celery want it.

    redis://[[user]:password@]host[:6379][/database]
    rediss://...                                 the same over TLS; the server's certificate is checked
    sentinel://[[user]:password@]host[:26379][;host2[:26379]...][/database]?master=NAME
    sentinels://...                              the same over TLS, to the Sentinels and to the servers

User and password are the server's; a Sentinel's own are the options `sentinel_user` and `sentinel_password`. Options
for TLS: `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile` (files), `ssl_cert_reqs` (required or none), `ssl_check_hostname`
(true or false).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

PLAIN = ("redis", "sentinel")
SECURE = ("rediss", "sentinels")

_FORM = (
    "redis://[user:password@]host[:port][/number], rediss:// for TLS, "
    "or sentinel://[user:password@]host[:port][;host2...][/number]?master=NAME"
)

_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_WORDS: Mapping[str, Mapping[str, Any]] = {
    "ssl_cert_reqs": {"required": "required", "none": "none"},
    "ssl_check_hostname": {"true": True, "false": False},
}
_FOR_TLS = (*_FILES, *_WORDS)
_FOR_SENTINEL = ("master", "sentinel_user", "sentinel_password")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user's name ('' for the one that has none) and password; nothing where Redis asks for neither."""

    user: str = ""
    password: str = field(default="", repr=False)

    def options(self) -> dict[str, str]:
        """As redis-py names them."""
        named = {"username": self.user, "password": self.password}
        return {name: value for name, value in named.items() if value}


@dataclass(frozen=True, slots=True)
class Address:
    """One Redis, or the master that Sentinels know by name."""

    #: of the server, or of the Sentinels
    hosts: tuple[tuple[str, int], ...]
    database: int
    credentials: Credentials
    #: redis-py's `ssl_` options; None without TLS
    tls: Mapping[str, Any] | None
    #: None without Sentinels
    master: str | None
    sentinel_credentials: Credentials

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises ValueError that names the mistake and shows no password."""
        scheme = url.partition("://")[0]
        if "://" not in url or scheme not in PLAIN + SECURE:
            raise ValueError(f"a Redis address is {_FORM}")
        # http's rules are the same for all; urlsplit itself may quote what it does not like
        try:
            parts = urlsplit(f"http{url[len(scheme) :]}")
        except ValueError:
            raise ValueError(f"brackets that are no IPv6 address; {_FORM}") from None
        watched, secure = scheme.startswith("sentinel"), scheme in SECURE
        userinfo, _, places = parts.netloc.rpartition("@")
        hosts = _hosts(places, 26379 if watched else 6379, several=watched)
        if parts.fragment or not re.fullmatch(r"/?|/\d+", parts.path):
            raise ValueError(f"after the host comes the database's number{', then ?master=NAME' if watched else ''}")
        options = _options(parts.query)
        _refuse_strange(options, (*(_FOR_SENTINEL if watched else ()), *(_FOR_TLS if secure else ())))
        if watched and not options.get("master"):
            raise ValueError("a Sentinel address names the master: ?master=NAME")
        own = Credentials(options.get("sentinel_user", ""), options.get("sentinel_password", ""))
        return cls(
            hosts=hosts,
            database=int(parts.path[1:] or 0),
            credentials=_credentials(userinfo),
            tls=_tls(options) if secure else None,
            master=options.get("master"),
            sentinel_credentials=own,
        )

    @property
    def where(self) -> str:
        """For messages: what is asked, without user and password."""
        hosts = ", ".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return f"Redis at {hosts}" if self.master is None else f"Redis master {self.master} (Sentinel at {hosts})"

    def options(self) -> dict[str, Any]:
        """What redis-py needs to log in at a server, besides host and port."""
        return {"db": self.database, **self.credentials.options(), **self._ssl()}

    def sentinel_options(self) -> dict[str, Any]:
        """What redis-py needs to log in at a Sentinel, besides host and port."""
        return {**self.sentinel_credentials.options(), **self._ssl()}

    def _ssl(self) -> dict[str, Any]:
        return {"ssl": True, **self.tls} if self.tls is not None else {}

    def urls(self) -> list[str]:
        """One for each host, as Celery and kombu read them; TLS and the master's name they take as settings."""
        scheme = "sentinel" if self.master is not None else "redis" if self.tls is None else "rediss"
        user, password = (quote(word, safe="") for word in (self.credentials.user, self.credentials.password))
        login = f"{user}:{password}@" if password else ""
        places = [(f"[{host}]" if ":" in host else host, port) for host, port in self.hosts]
        return [f"{scheme}://{login}{host}:{port}/{self.database}" for host, port in places]


def _options(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ValueError("what follows the ? is name=value, joined by &") from None
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("an option is given twice")
    return dict(pairs)


def _refuse_strange(options: Mapping[str, str], known: tuple[str, ...]) -> None:
    for name in options:
        if name not in known:
            # not shown: it may be the end of a password
            said = f"{name} does not go with this scheme" if name in _FOR_TLS + _FOR_SENTINEL else "unknown option"
            raise ValueError(f"{said}; {', '.join(known) or 'no options'} may follow the ?")


def _credentials(userinfo: str) -> Credentials:
    user, colon, password = userinfo.partition(":")
    if userinfo and not (colon and password):
        raise ValueError("a password is missing: user:password@ or :password@ stands before the host")
    return Credentials(unquote(user), unquote(password))


def _hosts(places: str, port: int, several: bool) -> tuple[tuple[str, int], ...]:
    found = []
    for place in places.split(";"):
        match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/@\[\]]+))(?::(\d{1,5}))?", place)
        # not shown: with an @ or a / in the password, what stands here is a piece of it
        if not match or not 0 < int(match[3] or port) < 65_536:
            raise ValueError(f"host[:port] is missing or is none; a password's / is written %2F, its ? %3F; {_FORM}")
        found.append((match[1] or match[2], int(match[3] or port)))
    if len(found) > 1 and not several:
        raise ValueError("several hosts go with sentinel:// alone")
    return tuple(found)


def _tls(options: Mapping[str, str]) -> dict[str, Any]:
    tls: dict[str, Any] = {"ssl_cert_reqs": "required"}
    for name in (name for name in options if name in _FOR_TLS):
        words = _WORDS.get(name)
        if words is not None and options[name] not in words:
            raise ValueError(f"{name} is {' or '.join(words)}")
        if words is None and not Path(options[name]).is_file():
            raise ValueError(f"{name}: no file {options[name]}")
        tls[name] = options[name] if words is None else words[options[name]]
    if tls["ssl_cert_reqs"] == "none":
        # a host's name is in its certificate, which nobody looks at then
        tls["ssl_check_hostname"] = False
    return tls
