"""Questions about scenes with their true answers, and the held-out items.

Knows the five families and when a question has one clear answer. Asks nothing ambiguous, such as "the circle" with two
circles, or "where" about a thing near the middle. Knows nothing of tensors or models.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

from training.palette import COLOURS, GROUNDS, OTHER, PLURALS, SHAPES, SIZES
from training.phrasings import FAMILIES, NUMBERS, noun, phrase
from training.scenes import Pair, Scene, Thing, compose, paint
from training.split import ALL_PAIRS, HELD_OUT_GROUNDS, HELD_OUT_PAIRS, TRAINING_PAIRS

# Relative frequencies of the families in training; those that often find no clear question are tried more.
ASKED: tuple[int, ...] = (3, 3, 2, 3, 2)
STRANGE = 0.5  # share of training scenes with unnamed things among the others
ANYWHERE = object()
MIDDLE = 0.1  # things nearer than this share of a side to its middle are in no corner


@dataclass(frozen=True)
class Item:
    """One image, one question, the expected answer; size is width and height."""

    image: Image.Image
    family: str
    question: str
    answer: str
    size: tuple[int, int]
    ground: str
    scene: Scene


@dataclass(frozen=True)
class Asker:
    """Draws questions about one scene, or with a focus about that pair. Only `pairs` may be named."""

    rng: random.Random
    scene: Scene
    pairs: frozenset[Pair]
    focus: Pair | None = None

    def ask(self, family: str) -> tuple[str, str] | None:
        """Return a question of the family and its answer, or None if the scene allows no clear one."""
        made = ASK[family](self)
        return None if made is None else (phrase(self.rng, family, made[0]), made[1])

    def colour(self) -> tuple[str, str] | None:
        """Return the subject and answer of a colour question."""
        return self._described(lambda thing: thing.shape, lambda thing: thing.shape, lambda thing: thing.colour)

    def shape(self) -> tuple[str, str] | None:
        """Return the subject and answer of a shape question."""
        return self._described(
            self._known_colour, lambda thing: f"{thing.colour} {self._noun()}", lambda thing: thing.shape
        )

    def _described(
        self, key: Callable[[Thing], object], subject: Callable[[Thing], str], answer: Callable[[Thing], str]
    ) -> tuple[str, str] | None:
        """Ask about a thing that is identified by its key, by its corner, or by being the only one."""
        by_corner = self.rng.random() < 0.35
        alone = self.scene.things[0] if len(self.scene.things) == 1 else None
        if alone and by_corner and answer(alone) != OTHER and self.rng.random() < 0.5:
            return self._noun(), answer(alone)
        thing = self._one(self._nearest_corner if by_corner else key)
        if thing is None or answer(thing) == OTHER or (by_corner and self._corner(thing) is None):
            return None
        return f"{self._noun()} at the {self._corner(thing)}" if by_corner else subject(thing), answer(thing)

    def _known_colour(self, thing: Thing) -> str:
        return OTHER if thing.colour in self._doubtful() else thing.colour

    def _doubtful(self) -> set[str]:
        """Return the colours that an unnamed colour in the image might be called, which questions avoid."""
        return {name for thing in self.scene.things for name in thing.doubtful}

    def _noun(self) -> str:
        # "What shape is the red shape?" would be clumsy.
        return self.rng.choice(("thing", "object"))

    def _nearest_corner(self, thing: Thing) -> object:
        """Return ANYWHERE for a thing near the middle, so that no other thing is alone in a corner."""
        return self._corner(thing) or ANYWHERE

    def _corner(self, thing: Thing) -> str | None:
        right, down = thing.x / self.scene.width - 0.5, thing.y / self.scene.height - 0.5
        if min(abs(right), abs(down)) < MIDDLE:
            return None
        return ("top" if down < 0 else "bottom") + (" left" if right < 0 else " right")

    def where(self) -> tuple[str, str] | None:
        """Return the subject and answer of a where question."""
        keys: list[Callable[[Thing], object]] = [lambda t: t.shape, self._known_colour, lambda t: t.pair]
        kind = self.rng.randrange(3)
        thing = self._one(keys[kind])
        if thing is None or (kind == 2 and thing.colour in self._doubtful()):
            return None
        subject = (thing.shape, f"{thing.colour} {noun(self.rng)}", f"{thing.colour} {thing.shape}")[kind]
        corner = self._corner(thing)
        return None if corner is None else (subject, corner)

    def how_many(self) -> tuple[str, str] | None:
        """Return the subject and answer of a how many question."""
        kind = self.rng.choices(range(4), (4, 3, 2, 2))[0]
        colour, shape = self.focus or self._some_pair(present=self.rng.random() < 0.75)
        if kind >= 2 and colour in self._doubtful():
            return None
        things = self.scene.things
        subject, count = (
            (noun(self.rng, plural=True), len(things)),
            (PLURALS[shape], sum(t.shape == shape for t in things)),
            (f"{colour} {noun(self.rng, plural=True)}", sum(t.colour == colour for t in things)),
            (f"{colour} {PLURALS[shape]}", sum(t.pair == (colour, shape) for t in things)),
        )[kind]
        return subject, NUMBERS[count]

    def yes_no(self) -> tuple[str, str] | None:
        """Return the subject and answer of a yes/no question."""
        present = self.rng.random() < 0.5
        kind = 2 if self.focus or self.rng.random() < 0.5 else self.rng.randrange(2)
        colour, shape = self._some_pair(present)
        if kind < 2 and not present:
            # The colour or shape of an absent pair may be present.
            seen = {thing.pair[1 - kind] for thing in self.scene.things}
            word = self.rng.choice([word for word in (SHAPES, tuple(COLOURS))[kind] if word not in seen])
            colour, shape = (colour, word) if kind == 0 else (word, shape)
        if kind >= 1 and colour in self._doubtful():
            return None
        subject = (shape, f"{colour} {noun(self.rng)}", f"{colour} {shape}")[kind]
        asked = (shape, colour, (colour, shape))[kind]
        return subject, "yes" if asked in [(t.shape, t.colour, t.pair)[kind] for t in self.scene.things] else "no"

    def _one(self, key: Callable[[Thing], object]) -> Thing | None:
        keys = [key(thing) for thing in self.scene.things]
        if ANYWHERE in keys:
            return None
        alone = [t for t in self.scene.things if keys.count(key(t)) == 1 and self.focus in (None, t.pair)]
        alone = [t for t in alone if key(t) != OTHER and (key(t) != t.pair or OTHER not in t.pair)]
        return self.rng.choice(alone) if alone else None

    def _some_pair(self, present: bool) -> Pair:
        seen = sorted({thing.pair for thing in self.scene.things} & self.pairs)
        if present:
            return self.focus if self.focus in seen else self.rng.choice(seen or sorted(self.pairs))
        absent = sorted(self.pairs - set(seen))
        # Most share a colour or a shape with a thing in the scene, so that both matter.
        near = [p for p in absent if any(p[0] == s[0] or p[1] == s[1] for s in seen)]
        return self.rng.choice(near if near and self.rng.random() < 0.6 else absent)


ASK: dict[str, Callable[[Asker], tuple[str, str] | None]] = dict(
    zip(FAMILIES, (Asker.colour, Asker.shape, Asker.how_many, Asker.where, Asker.yes_no), strict=True)
)


def training_scene(rng: random.Random, size: tuple[int, int]) -> Scene:
    """Draw a scene without held-out pairs, on a ground that is not held out for its size."""
    ground = rng.choice([g for g in GROUNDS if (size, g) not in HELD_OUT_GROUNDS])
    return compose(rng, size, ground, TRAINING_PAIRS, strange=STRANGE)


def training_questions(rng: random.Random, scene: Scene, count: int) -> list[tuple[str, str, str]]:
    """Draw `count` tuples of family, question and answer that name no held-out pair."""
    asker = Asker(rng, scene, frozenset(TRAINING_PAIRS))
    asked: list[tuple[str, str, str]] = []
    while len(asked) < count:
        family = rng.choices(FAMILIES, ASKED)[0]
        made = asker.ask(family)
        if made is not None:
            asked.append((family, *made))
    return asked


def familiar(count: int, seed: int = 0) -> Iterator[Item]:
    """Yield items like those of training, from other seeds."""
    for index in range(count):
        rng = random.Random(f"familiar {seed} {index}")
        size = rng.choice(SIZES)
        scene = training_scene(rng, size)
        family, question, answer = training_questions(rng, scene, 1)[0]
        yield Item(paint(rng, scene), family, question, answer, size, scene.ground, scene)


def held_out(count: int, seed: int = 0) -> Iterator[Item]:
    """Yield items from seeds and combinations that training never uses, the families in turn, reproducible by seed.

    Every image shows a held-out pair. Colour, shape and where questions are about it. Yes/no questions are about it or
    about an absent held-out pair. How many questions are about it, its colour, its shape, or all shapes. Every second
    round of the families is drawn on a ground that training never uses at that size.
    """
    grounds = sorted(HELD_OUT_GROUNDS)
    others = [(size, ground) for size in SIZES for ground in GROUNDS if (size, ground) not in HELD_OUT_GROUNDS]
    for index in range(count):
        rng = random.Random(f"held-out {seed} {index}")
        family = FAMILIES[index % len(FAMILIES)]
        size, ground = rng.choice(grounds if index // len(FAMILIES) % 2 else others)
        yield held_out_item(rng, family, size, ground)


def held_out_item(rng: random.Random, family: str, size: tuple[int, int], ground: str) -> Item:
    """Draw one held-out item of the family."""
    while True:
        pair = rng.choice(sorted(HELD_OUT_PAIRS))
        scene = compose(rng, size, ground, ALL_PAIRS, first=pair)
        made = Asker(rng, scene, HELD_OUT_PAIRS, focus=pair).ask(family)
        if made is not None:
            return Item(paint(rng, scene), family, made[0], made[1], size, ground, scene)
