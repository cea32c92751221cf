"""The address of Redis: parses VQA_REDIS_URL and writes it as redis-py and Celery expect it.

    redis://[[user]:password@]host[:6379][/database]
    rediss://...                                 the same over TLS; the server's certificate is verified
    sentinel://[[user]:password@]host[:26379][;host2[:26379]...][/database]?master=NAME
    sentinels://...                              the same over TLS, to Sentinels and servers

User and password are for the server; those for the Sentinels are the options `sentinel_user` and `sentinel_password`.
TLS options: `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile` (files), `ssl_cert_reqs` (required or none) and
`ssl_check_hostname` (true or false).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

PLAIN_SCHEMES = ("redis", "sentinel")
TLS_SCHEMES = ("rediss", "sentinels")

_FORM = (
    "redis://[user:password@]host[:port][/number], rediss:// for TLS, "
    "or sentinel://[user:password@]host[:port][;host2...][/number]?master=NAME"
)

#: as Celery writes them
_RABBITMQ_SCHEMES = ("amqp", "amqps", "pyamqp", "librabbitmq", "qpid")
_ONLY_REDIS = (
    "jobs, images and answers are in Redis, and which job comes next is decided there "
    "(docs/several-machines.md says what was tried)"
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
    """User ('' for Redis's default user) and password; both empty without authentication."""

    user: str = ""
    password: str = field(default="", repr=False)

    def options(self) -> dict[str, str]:
        """Return them as redis-py's keyword arguments."""
        named = {"username": self.user, "password": self.password}
        return {name: value for name, value in named.items() if value}


@dataclass(frozen=True, slots=True)
class Address:
    """A Redis server, or a master that Sentinels know by name."""

    #: host and port of the server, or of each Sentinel
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
        """Parse VQA_REDIS_URL. Raises ValueError, which names the mistake and quotes no part of a password."""
        scheme = url.partition("://")[0]
        if "://" in url and scheme.lower() in _RABBITMQ_SCHEMES:
            raise ValueError(f"{scheme}:// names RabbitMQ, which vqa cannot use: {_ONLY_REDIS}; write {_FORM}")
        if "://" not in url or scheme not in PLAIN_SCHEMES + TLS_SCHEMES:
            raise ValueError(f"a Redis address is {_FORM}")
        # all schemes are split by http's rules; urlsplit's own errors may quote the password
        try:
            parts = urlsplit(f"http{url[len(scheme) :]}")
        except ValueError:
            raise ValueError(f"the brackets hold no IPv6 address; {_FORM}") from None
        watched, secure = scheme.startswith("sentinel"), scheme in TLS_SCHEMES
        userinfo, _, places = parts.netloc.rpartition("@")
        hosts = _hosts(places, 26379 if watched else 6379, several=watched)
        if parts.fragment or not re.fullmatch(r"/?|/\d+", parts.path):
            raise ValueError(
                f"the host must be followed by the database number{', then ?master=NAME' if watched else ''}"
            )
        options = _options(parts.query)
        _refuse_unknown(options, (*(_FOR_SENTINEL if watched else ()), *(_FOR_TLS if secure else ())))
        if watched and not options.get("master"):
            raise ValueError("a Sentinel address must name the master: ?master=NAME")
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
        """The address for messages, without user and password."""
        hosts = ", ".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return f"Redis at {hosts}" if self.master is None else f"Redis master {self.master} (Sentinel at {hosts})"

    def options(self) -> dict[str, Any]:
        """Return redis-py's options for a server, except host and port."""
        return {"db": self.database, **self.credentials.options(), **self._ssl()}

    def sentinel_options(self) -> dict[str, Any]:
        """Return redis-py's options for a Sentinel, except host and port."""
        return {**self.sentinel_credentials.options(), **self._ssl()}

    def _ssl(self) -> dict[str, Any]:
        return {"ssl": True, **self.tls} if self.tls is not None else {}

    def urls(self) -> list[str]:
        """Return a URL per host for Celery and kombu, which take TLS options and the master's name as settings."""
        scheme = "sentinel" if self.master is not None else "redis" if self.tls is None else "rediss"
        user, password = (quote(word, safe="") for word in (self.credentials.user, self.credentials.password))
        login = f"{user}:{password}@" if password else ""
        places = [(f"[{host}]" if ":" in host else host, port) for host, port in self.hosts]
        return [f"{scheme}://{login}{host}:{port}/{self.database}" for host, port in places]


def _options(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ValueError("after the ?, options are written name=value, joined by &") from None
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("an option is given twice")
    return dict(pairs)


def _refuse_unknown(options: Mapping[str, str], known: tuple[str, ...]) -> None:
    for name in options:
        if name not in known:
            # an unknown option is not quoted: it may be the end of a password
            problem = f"{name} does not go with this scheme" if name in _FOR_TLS + _FOR_SENTINEL else "unknown option"
            raise ValueError(f"{problem}; {', '.join(known) or 'no options'} may follow the ?")


def _credentials(userinfo: str) -> Credentials:
    user, colon, password = userinfo.partition(":")
    if userinfo and not (colon and password):
        raise ValueError("the password is missing: write user:password@ or :password@ before the host")
    return Credentials(unquote(user), unquote(password))


def _hosts(places: str, port: int, several: bool) -> tuple[tuple[str, int], ...]:
    found = []
    for place in places.split(";"):
        match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/@\[\]]+))(?::(\d{1,5}))?", place)
        # not quoted: if the password holds an @ or a /, this is a part of it
        if not match or not 0 < int(match[3] or port) < 65_536:
            raise ValueError(f"host[:port] is missing or invalid; in a password, write / as %2F and ? as %3F; {_FORM}")
        found.append((match[1] or match[2], int(match[3] or port)))
    if len(found) > 1 and not several:
        raise ValueError("only sentinel:// takes several hosts")
    return tuple(found)


def _tls(options: Mapping[str, str]) -> dict[str, Any]:
    tls: dict[str, Any] = {"ssl_cert_reqs": "required"}
    for name in (name for name in options if name in _FOR_TLS):
        words = _WORDS.get(name)
        if words is not None and options[name] not in words:
            raise ValueError(f"{name} must be {' or '.join(words)}")
        if words is None and not Path(options[name]).is_file():
            raise ValueError(f"{name}: there is no file {options[name]}")
        tls[name] = options[name] if words is None else words[options[name]]
    if tls["ssl_cert_reqs"] == "none":
        # without a verified certificate there is no host name to check
        tls["ssl_check_hostname"] = False
    return tls
