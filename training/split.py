"""The combinations that training never uses.

Training neither draws nor asks about the held-out pairs of colour and shape, and never draws the held-out pairs of size
and ground. Held-out items are built from them. Knows nothing of drawing or phrasing.
"""

from training.palette import COLOURS, SHAPES

# One pair per shape, each with another colour, so that training still has every colour and every shape.
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
