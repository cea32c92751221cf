"""Which combinations training never sees.

Knows the held-out colour and shape pairs and the held-out size and ground pairs. Training neither draws nor asks about
the former and never draws the latter; held-out items are built from them. Knows nothing of drawing or phrasing.
"""

from training.palette import COLOURS, SHAPES

# One pair a shape, each in another colour, so that every colour and every shape is still met in other company.
HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    {
        ("red", "star"),
        ("green", "circle"),
        ("blue", "triangle"),
        ("yellow", "cross"),
        ("purple", "square"),
        ("orange", "diamond"),
    }
)
HELD_OUT_GROUNDS: frozenset[tuple[tuple[int, int], str]] = frozenset(
    {
        ((128, 128), "noise"),
        ((224, 160), "stripes"),
        ((256, 192), "gradient"),
        ((150, 200), "noise"),
        ((210, 230), "stripes"),
        ((300, 200), "gradient"),
    }
)
TRAINING_PAIRS: tuple[tuple[str, str], ...] = tuple(
    (colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in HELD_OUT_PAIRS
)
ALL_PAIRS: tuple[tuple[str, str], ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
