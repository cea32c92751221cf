"""The workloads: W1 with equal jobs all at once, W2 with mixed sizes and lengths as they arrive; and those that share.

Of W3, 16 jobs ask about each image; of W4, all jobs have a system prompt in common (see `bench.engine.catalogue`).
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from bench.engine.catalogue import SCHEMA, SYSTEM_PROMPT, title
from bench.media.images import photos, renewed
from vqa.structured_output.grammar import json_grammar
from workers.tune.trial import Question

#: 26 tokens with the chat template and the tokens around the image
WORDS = "how many red circles and blue squares are there in the middle of the picture?"

W1_SIZE = (1024, 768)
W1_TOKENS = 64

#: 24 tokens, with colours and shapes that are one token each
_W3_WORDS = "how many {} {} are there in the middle of the picture and how many of them are left of the black square?"
_W3_COLOURS = ("red", "blue", "green", "yellow")
_W3_SHAPES = ("circles", "squares", "triangles", "stars")
W3_IMAGES = 32
W3_TOKENS = 16

W4_SIZE = (640, 640)
#: answers end sooner, where their JSON does
W4_TOKENS = 96

_W2_WIDTHS = (320, 4000)
_W2_TOKENS = (8, 256)
#: mean of the geometric distribution before it is cut off at the maximum
_W2_MEAN_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Size:
    """Scale of images and answers, for machines without a card."""

    #: factor for an image's sides
    image: float = 1.0
    #: factor for an answer's tokens
    tokens: float = 1.0

    def image_of(self, width: float, height: float) -> tuple[int, int]:
        """Return width and height, at least 32."""
        return max(32, round(width * self.image)), max(32, round(height * self.image))

    def tokens_of(self, tokens: float) -> int:
        """Return at least 2 tokens."""
        return max(2, round(tokens * self.tokens))


class Stock:
    """Images made beforehand; each use gets new bytes, so that nothing can be reused between questions."""

    def __init__(self, images: Sequence[bytes], tokens: Sequence[int]) -> None:
        self._pairs = itertools.cycle(zip(images, tokens, strict=True))
        self._numbers = itertools.count()
        self.count = len(images)

    @classmethod
    def w1(cls, count: int, size: Size) -> Stock:
        """Make W1: images of 1024 x 768, answers of 64 tokens."""
        return cls(photos([size.image_of(*W1_SIZE)] * count), [size.tokens_of(W1_TOKENS)] * count)

    @classmethod
    def w2(cls, count: int, size: Size, seed: int = 2) -> Stock:
        """Make W2: images of 320 x 240 to 4000 x 3000, log-uniform; answers of 8 to 256 tokens, geometric."""
        draw = random.Random(seed)
        low, high = (math.log(width) for width in _W2_WIDTHS)
        widths = [math.exp(draw.uniform(low, high)) for _ in range(count)]
        tokens = [size.tokens_of(_geometric(draw)) for _ in range(count)]
        return cls(photos([size.image_of(width, width * 3 / 4) for width in widths]), tokens)

    def take(self, count: int | None = None, tokens: int | None = None) -> list[Question]:
        """Return the next `count` questions (default: one per image), with `tokens` in place of their own."""
        pairs = itertools.islice(self._pairs, self.count if count is None else count)
        return [Question(renewed(image, str(next(self._numbers))), WORDS, tokens or own) for image, own in pairs]


class ManyQuestions:
    """W3: images of 1024 x 768 with 16 questions each, all of them different; answers of 16 tokens."""

    def __init__(self, images: int, size: Size) -> None:
        self._images = photos([size.image_of(*W1_SIZE)] * images)
        self._tokens = size.tokens_of(W3_TOKENS)
        self._numbers = itertools.count()

    def take(self, *, interleaved: bool = False) -> list[Question]:
        """Return all questions, image by image or question by question, about images that no earlier call returned."""
        images = [renewed(image, str(next(self._numbers))) for image in self._images]
        texts = [_W3_WORDS.format(*words) for words in itertools.product(_W3_COLOURS, _W3_SHAPES)]
        pairs = [(image, text) for image in images for text in texts]
        if interleaved:
            pairs = [(image, text) for text in texts for image in images]
        return [Question(image, text, self._tokens) for image, text in pairs]


class Products:
    """W4: images of 640 x 640 with a title each, a system prompt of 600 tokens, and answers in JSON of five fields."""

    def __init__(self, images: int, size: Size) -> None:
        self._images = photos([size.image_of(*W4_SIZE)] * images)
        self._grammar = json_grammar(SCHEMA)
        self._numbers = itertools.count()

    def take(self) -> list[Question]:
        """Return a question about each product; no two calls return the same image or title."""
        questions = []
        for image, number in zip(self._images, self._numbers, strict=False):
            text = title(number)
            questions.append(
                Question(renewed(image, str(number)), text, W4_TOKENS, self._grammar, system=SYSTEM_PROMPT)
            )
        return questions


def any_words() -> str:
    """Return a grammar of the contents of JSON strings: it allows nearly all tokens, and an end after any of them."""
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_lark(r'start: /[^"\\\x00-\x1F\x7F]*/')


def _geometric(draw: random.Random) -> int:
    """Draw from a geometric distribution, shifted to the minimum and cut off at the maximum."""
    low, high = _W2_TOKENS
    trials = math.ceil(math.log(1 - draw.random()) / math.log(1 - 1 / (_W2_MEAN_TOKENS - low + 1)))
    return min(high, low + max(0, trials - 1))


def poisson(count: int, rate: float, seed: int = 3) -> list[float]:
    """Return `count` arrival times of a Poisson process with `rate` arrivals per second, in seconds from the start."""
    draw = random.Random(seed)
    return list(itertools.accumulate(draw.expovariate(rate) for _ in range(count)))
