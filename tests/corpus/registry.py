"""Bad files by name: each is drawn from the seed, its name and the round, so that one can be made again alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

#: draws a file; the same state of the generator gives the same bytes
Maker = Callable[[Random], bytes]

#: files that take over half a second to decode or to refuse: `make fuzz` tries them, the tests do not
DEAR = frozenset(
    {
        "jpeg-scans-repeated-for-megapixels",
        "pdf-contents-inflating",
        "pdf-contents-inflating-twice",
        "pdf-contents-of-a-million-lines",
        "pdf-contents-of-a-path-of-million-curves",
        "pdf-forms-in-forms",
        "pdf-tiling-in-tiny-steps",
        "png-grey-7000x7000-with-alpha",
        "tiff-pages-16-of-49-megapixels",
        "webp-16383x3000-one-colour",
        "webp-7000x7000-one-colour",
        "webp-canvas-7000x7000-image-small",
        "webp-large-frames",
    }
)

_MAKERS: dict[str, Maker] = {}


@dataclass(frozen=True, slots=True)
class BadFile:
    """`name` is `FORMAT-WHAT/ROUND`; with the seed it says how to make the file again."""

    name: str
    data: bytes


def bad(name: str) -> Callable[[Maker], Maker]:
    """Register a maker under `FORMAT-WHAT`."""

    def register(maker: Maker) -> Maker:
        assert name not in _MAKERS, name
        _MAKERS[name] = maker
        return maker

    return register


def makers() -> dict[str, Maker]:
    """Return all makers by name, in the order of their registration."""
    # they register when they are imported
    import tests.corpus.damage
    import tests.corpus.formats  # noqa: F401

    return dict(_MAKERS)


def make(seed: int, name: str) -> BadFile:
    """Make the file that a run with `seed` calls `name`. Raises KeyError."""
    maker, _, _ = name.rpartition("/")
    return BadFile(name, makers()[maker](Random(f"{seed}/{name}")))


def names(count: int | None = None) -> Iterator[str]:
    """Yield the names of a run of `count` files; without it, of one round of all makers."""
    every = list(makers())
    for number in range(len(every) if count is None else count):
        round_number, at = divmod(number, len(every))
        yield f"{every[at]}/{round_number}"
