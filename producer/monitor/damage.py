"""Names what another program has damaged in Redis, for `vqa doctor`; changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from redis import Redis

from producer.monitor.checks import Finding
from vqa.ledger.batches import Batches
from vqa.ledger.damage import Damage
from vqa.ledger.ledger import DEADLINES
from vqa.ledger.records import texts

#: open jobs, nearest deadlines first, and newest batches that are looked at
_ENTRIES, _BATCHES = 10_000, 1000
_PAGE = 500
#: damaged ones that are named
_NAMED = 5

_OWN_DATABASE = "give each program a database of its own"


def wrong_types(redis: Redis) -> Iterator[Finding]:
    """Yield the keys of a wrong type. While there is one, most other commands fail."""
    for key, kind in Damage(redis).wrong_types().items():
        said = f"{_printable(key)} is not a {kind}: another program has overwritten it"
        advice = f"a running worker sets it aside within seconds, `vqa doctor --repair` does so now; {_OWN_DATABASE}"
        yield Finding("damage", "wrong", said, advice)


def damaged(redis: Redis) -> Iterator[Finding]:
    """Yield the jobs, workers and batches that cannot be read."""
    damage, flaws = Damage(redis), dict[str, str]()
    for start in range(0, _ENTRIES, _PAGE):
        ids = cast(list[bytes], redis.zrange(DEADLINES, start, start + _PAGE - 1))
        flaws |= damage.entry_flaws(texts(ids))
        if len(ids) < _PAGE:
            break
    if flaws:
        advice = "`vqa cancel ID` sets an entry aside among the dead letters now; else it is when a worker reads it"
        yield _finding("open jobs", flaws, advice)
    if lines := {name.decode("utf-8", "replace"): flaw for name, flaw in damage.worker_flaws().items()}:
        yield _finding("lines of workers", lines, "a running worker removes them within seconds")
    if batches := Batches(redis).flaws(_BATCHES):
        yield _finding("batches", batches, "their jobs go on; submit the rest again as another batch")


def _finding(what: str, flaws: Mapping[str, str], advice: str) -> Finding:
    named = ", ".join(f"{_printable(name)} ({flaw})" for name, flaw in list(flaws.items())[:_NAMED])
    more = ", ..." if len(flaws) > _NAMED else ""
    said = f"{what} that cannot be read, because another program has written to them: {len(flaws)}: {named}{more}"
    return Finding("damage", "wrong", said, f"{advice}; {_OWN_DATABASE}")


def _printable(name: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in name)
