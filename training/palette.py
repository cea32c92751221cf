"""The parts of images: named colours, shapes, grounds and sizes.

A colour name covers several RGB bases; a drawn colour is one of them, shifted a little. A test checks that any shifted
base is nearest to a base of its own name, so its name is unambiguous. Knows nothing of layout.
"""

RGB = tuple[int, int, int]
OTHER = "other"  # an unnamed colour or shape: drawn in training, never asked about by name

COLOURS: dict[str, tuple[RGB, ...]] = {
    "red": ((220, 40, 40), (255, 0, 0), (185, 20, 30)),
    "green": ((40, 160, 60), (0, 128, 0), (30, 205, 40)),
    "blue": ((50, 80, 220), (0, 0, 255), (30, 60, 160)),
    "yellow": ((240, 220, 50), (255, 255, 0)),
    "purple": ((140, 60, 180), (128, 0, 128)),
    "orange": ((240, 140, 40), (255, 150, 0)),
    "black": ((20, 20, 20), (0, 0, 0)),
    "white": ((240, 240, 240), (255, 255, 255)),
}
COLOUR_SHIFT = 10  # maximum shift of a channel from its base

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross", "diamond")
# With the named colours that people might call them.
UNNAMED_TONES: dict[RGB, tuple[str, ...]] = {
    (128, 128, 128): (),
    (190, 190, 195): ("white",),
    (60, 65, 70): ("black",),
    (255, 170, 190): ("red", "purple"),
    (250, 150, 130): ("red", "orange"),
    (0, 215, 225): ("blue", "green"),
    (150, 200, 240): ("blue",),
    (0, 130, 135): ("blue", "green"),
    (110, 120, 150): ("blue", "purple"),
    (150, 230, 185): ("green",),
    (180, 215, 40): ("green", "yellow"),
    (128, 128, 0): ("green", "yellow"),
    (120, 75, 40): ("red", "orange"),
    (210, 180, 140): ("orange", "yellow"),
    (245, 235, 190): ("yellow", "white"),
    (200, 170, 240): ("purple", "blue"),
    (255, 0, 190): ("purple", "red"),
    (110, 20, 60): ("red", "purple"),
}
UNNAMED_FORMS: tuple[str, ...] = ("bar", "angle", "arrow", "half disc")
PLURALS: dict[str, str] = {shape: shape + "s" for shape in SHAPES} | {"cross": "crosses"}

GROUND_TONES: tuple[RGB, ...] = (
    (128, 128, 128),
    (200, 200, 200),
    (225, 215, 190),
    (190, 220, 235),
    (235, 200, 210),
    (120, 90, 60),
    (70, 70, 80),
    (90, 130, 130),
    (255, 255, 255),
    (245, 245, 245),
    (0, 0, 0),
    (25, 25, 35),
    (40, 60, 130),
    (30, 100, 50),
    (240, 225, 100),
    (150, 40, 50),
)
GROUNDS: tuple[str, ...] = ("plain", "gradient", "noise", "stripes")

# Width, height in pixels. The processor rounds each side to a multiple of 32 and shrinks images over 256 x 256.
SIZES: tuple[tuple[int, int], ...] = (
    (128, 128),
    (160, 120),
    (180, 140),
    (150, 200),
    (192, 192),
    (200, 200),
    (224, 160),
    (256, 192),
    (250, 190),
    (192, 256),
    (210, 230),
    (224, 224),
    (256, 256),
    (300, 200),
    (320, 240),
    (240, 320),
)
