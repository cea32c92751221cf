"""Scenes of things on a ground, and their images.

Knows layout (things do not touch or leave the frame, and colours stand out from the ground) and drawing with Pillow.
All randomness comes from the `random.Random` that is passed in. Knows nothing of questions or models.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from PIL import Image, ImageDraw

from training.palette import COLOUR_SHIFT, COLOURS, GROUND_TONES, OTHER, RGB, UNNAMED_FORMS, UNNAMED_TONES

Pair = tuple[str, str]
MAX_THINGS = 5
CONTRAST = 100.0  # least RGB distance between a thing and any tone of its ground
NOISE_AMPLITUDES = (0.06, 0.12, 0.2)  # share of the full range


@dataclass(frozen=True)
class Thing:
    """One coloured shape; x, y and radius in pixels of the image, tilt in radians.

    `form` is the drawn form: the shape, or an unnamed form if the shape is OTHER. `doubtful` lists the named colours
    that people might call an unnamed colour.
    """

    colour: str
    shape: str
    x: float
    y: float
    radius: float
    rgb: RGB
    tilt: float
    form: str
    doubtful: tuple[str, ...] = ()

    @property
    def pair(self) -> Pair:
        """Colour and shape."""
        return self.colour, self.shape


@dataclass(frozen=True)
class Scene:
    """The content of an image."""

    width: int
    height: int
    ground: str
    tones: tuple[RGB, ...]
    things: tuple[Thing, ...]


def compose(
    rng: random.Random,
    size: tuple[int, int],
    ground: str,
    pairs: Sequence[Pair],
    first: Pair | None = None,
    strange: float = 0.0,
) -> Scene:
    """Lay out 1 to 5 things with pairs from `pairs`; `first`, if given, is the pair of one of them.

    In a share `strange` of the scenes, some things have an unnamed colour or shape instead.
    """
    while True:
        tones = _tones(rng, ground)
        colours = {colour for colour in COLOURS if _stands_out(COLOURS[colour], tones)}
        clear = [pair for pair in pairs if pair[0] in colours]
        if not clear or (first is not None and first[0] not in colours):
            continue
        # Often only two kinds, so that counts above one are common.
        kinds = clear if rng.random() < 0.65 else [first or rng.choice(clear), rng.choice(clear)]
        wanted = [rng.choice(kinds) for _ in range(rng.randint(1, MAX_THINGS))]
        if first is not None:
            wanted[0] = first
        if rng.random() < strange:
            wanted = [_estranged(rng, pair) for pair in wanted]
        return Scene(size[0], size[1], ground, tones, _place(rng, size, tones, wanted, pairs))


def paint(rng: random.Random, scene: Scene) -> Image.Image:
    """Draw the scene."""
    image = _paint_ground(rng, scene)
    draw = ImageDraw.Draw(image)
    for thing in scene.things:
        if thing.form == "circle":
            x, y, r = thing.x, thing.y, thing.radius
            draw.ellipse((x - r, y - r, x + r, y + r), fill=thing.rgb)
        else:
            draw.polygon(_outline(thing), fill=thing.rgb)
    return image


def shift(rng: random.Random, base: RGB, most: int = COLOUR_SHIFT) -> RGB:
    """Draw a colour near `base`."""
    r, g, b = (min(255, max(0, value + rng.randint(-most, most))) for value in base)
    return r, g, b


def _tones(rng: random.Random, ground: str) -> tuple[RGB, ...]:
    first = shift(rng, rng.choice(GROUND_TONES))
    if ground in ("plain", "noise"):
        return (first,)
    # Close to the first, or no colour would stand out from both.
    return first, shift(rng, first, 45)


def _stands_out(bases: Sequence[RGB], tones: Sequence[RGB]) -> bool:
    return all(math.dist(base, tone) >= CONTRAST + COLOUR_SHIFT for base in bases for tone in tones)


def _estranged(rng: random.Random, pair: Pair) -> Pair:
    return rng.choice(((OTHER, pair[1]), (pair[0], OTHER), pair))


def _place(
    rng: random.Random, size: tuple[int, int], tones: Sequence[RGB], wanted: Sequence[Pair], pairs: Sequence[Pair]
) -> tuple[Thing, ...]:
    """Place the things that fit; the first one always does."""
    width, height = size
    side = min(width, height)
    things: list[Thing] = []
    for colour, shape in wanted:
        for _ in range(20):
            r = rng.uniform(0.095, 0.19) * side
            x, y = rng.uniform(r + 2, width - r - 3), rng.uniform(r + 2, height - r - 3)
            if all(math.hypot(x - o.x, y - o.y) > r + o.radius + 3 for o in things):
                form = rng.choice(UNNAMED_FORMS) if shape == OTHER else shape
                base, doubtful = _base(rng, (colour, shape), tones, pairs)
                rgb, tilt = shift(rng, base), rng.uniform(-0.2, 0.2)
                things.append(Thing(colour, shape, x, y, r, rgb, tilt, form, doubtful))
                break
    return tuple(things)


def _base(rng: random.Random, pair: Pair, tones: Sequence[RGB], pairs: Sequence[Pair]) -> tuple[RGB, tuple[str, ...]]:
    """Draw a base colour; an unnamed one must not pass for a colour whose pair with the shape is not in `pairs`."""
    colour, shape = pair
    if colour != OTHER:
        return rng.choice(COLOURS[colour]), ()
    while True:
        tone, doubtful = rng.choice(tuple(UNNAMED_TONES.items()))
        if _stands_out((tone,), tones) and all((name, shape) in pairs for name in doubtful):
            return tone, doubtful


def _outline(thing: Thing) -> list[tuple[float, float]]:
    cos, sin, r = math.cos(thing.tilt), math.sin(thing.tilt), thing.radius
    return [(thing.x + r * (cos * x - sin * y), thing.y + r * (sin * x + cos * y)) for x, y in OUTLINES[thing.form]]


def _turned(corners: int, inner: float) -> tuple[tuple[float, float], ...]:
    radii = [1.0 if i % 2 == 0 else inner for i in range(corners)]
    angles = [2 * math.pi * i / corners for i in range(corners)]
    return tuple((radius * math.sin(a), -radius * math.cos(a)) for radius, a in zip(radii, angles, strict=True))


# Corners in a unit circle.
OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "square": ((-0.72, -0.72), (0.72, -0.72), (0.72, 0.72), (-0.72, 0.72)),
    "triangle": ((0.0, -1.0), (0.9, 0.65), (-0.9, 0.65)),
    "star": _turned(10, 0.42),
    "bar": ((-0.95, -0.28), (0.95, -0.28), (0.95, 0.28), (-0.95, 0.28)),
    "angle": ((-0.7, -0.7), (-0.2, -0.7), (-0.2, 0.2), (0.7, 0.2), (0.7, 0.7), (-0.7, 0.7)),
    "arrow": ((-0.9, -0.2), (0.1, -0.2), (0.1, -0.65), (0.95, 0.0), (0.1, 0.65), (0.1, 0.2), (-0.9, 0.2)),
    "half disc": tuple((math.cos(math.pi * i / 12), 0.45 - math.sin(math.pi * i / 12)) for i in range(13)),
    "diamond": ((0.0, -1.0), (0.68, 0.0), (0.0, 1.0), (-0.68, 0.0)),
    "cross": tuple(
        (x, y)
        for x, y in (
            (-0.3, -0.95), (0.3, -0.95), (0.3, -0.3), (0.95, -0.3), (0.95, 0.3), (0.3, 0.3),
            (0.3, 0.95), (-0.3, 0.95), (-0.3, 0.3), (-0.95, 0.3), (-0.95, -0.3), (-0.3, -0.3),
        )
    ),
}  # fmt: skip


def _paint_ground(rng: random.Random, scene: Scene) -> Image.Image:
    size = scene.width, scene.height
    if scene.ground == "noise":
        return _noise(rng, size, scene.tones[0])
    image = Image.new("RGB", size, scene.tones[0])
    if scene.ground == "gradient":
        ramp = _ramp(size, rng.random() < 0.5)
        image.paste(Image.new("RGB", size, scene.tones[1]), (0, 0), ramp)
    elif scene.ground == "stripes":
        draw, step = ImageDraw.Draw(image), rng.randint(6, 24)
        across = rng.random() < 0.5
        for start in range(0, size[0] if across else size[1], 2 * step):
            box = (start, 0, start + step - 1, size[1]) if across else (0, start, size[0], start + step - 1)
            draw.rectangle(box, fill=scene.tones[1])
    return image


@lru_cache(maxsize=64)
def _ramp(size: tuple[int, int], across: bool) -> Image.Image:
    ramp = Image.linear_gradient("L")
    ramp = ramp.transpose(Image.Transpose.ROTATE_90) if across else ramp
    return ramp.resize(size, Image.Resampling.BILINEAR)


def _noise(rng: random.Random, size: tuple[int, int], tone: RGB) -> Image.Image:
    amplitude = rng.choice(NOISE_AMPLITUDES)
    grain = Image.frombytes("L", size, rng.randbytes(size[0] * size[1]))
    return Image.merge("RGB", [grain.point(_spread(base, amplitude)) for base in tone])


@cache
def _spread(base: int, amplitude: float) -> list[int]:
    return [min(255, max(0, round(base + (i - 127.5) * amplitude))) for i in range(256)]
