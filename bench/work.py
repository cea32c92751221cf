"""What is asked: W1, all alike and all at once, and W2, of all sizes and lengths and as they come."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from bench.images import photos, renewed
from workers.tune.trial import Question

#: with the chat template 26 tokens, the marks around the image among them
WORDS = "how many red circles and blue squares are there in the middle of the picture?"

W1_SIZE = (1024, 768)
W1_TOKENS = 64

_W2_WIDTHS = (320, 4000)
_W2_TOKENS = (8, 256)
#: of the geometric distribution, before it is cut off at the most
_W2_MEAN_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Size:
    """How much smaller all of it is made, for machines without a card."""

    #: of a side
    image: float = 1.0
    #: of an answer
    tokens: float = 1.0

    def image_of(self, width: float, height: float) -> tuple[int, int]:
        """Width and height, not under 32."""
        return max(32, round(width * self.image)), max(32, round(height * self.image))

    def tokens_of(self, tokens: float) -> int:
        """Not under 2."""
        return max(2, round(tokens * self.tokens))


class Stock:
    """Images made beforehand; each time that a question takes one, it is a new one to whoever sees it."""

    def __init__(self, images: Sequence[bytes], tokens: Sequence[int]) -> None:
        self._pairs = itertools.cycle(zip(images, tokens, strict=True))
        self._numbers = itertools.count()
        self.count = len(images)

    @classmethod
    def w1(cls, count: int, size: Size) -> Stock:
        """1024 x 768 pixels, 64 tokens."""
        return cls(photos([size.image_of(*W1_SIZE)] * count), [size.tokens_of(W1_TOKENS)] * count)

    @classmethod
    def w2(cls, count: int, size: Size, seed: int = 2) -> Stock:
        """320 x 240 to 4000 x 3000 pixels, log-uniform, and 8 to 256 tokens, geometric."""
        draw = random.Random(seed)
        low, high = (math.log(width) for width in _W2_WIDTHS)
        widths = [math.exp(draw.uniform(low, high)) for _ in range(count)]
        tokens = [size.tokens_of(_geometric(draw)) for _ in range(count)]
        return cls(photos([size.image_of(width, width * 3 / 4) for width in widths]), tokens)

    def take(self, count: int | None = None, tokens: int | None = None) -> list[Question]:
        """The next questions, as many as there are images unless told otherwise; `tokens` in place of their own."""
        pairs = itertools.islice(self._pairs, self.count if count is None else count)
        return [Question(renewed(image, str(next(self._numbers))), WORDS, tokens or own) for image, own in pairs]


def any_words() -> str:
    """A grammar of what may stand in a string of JSON: an answer by it may end anywhere, and nearly all tokens fit."""
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_lark(r'start: /[^"\\\x00-\x1F\x7F]*/')


def _geometric(draw: random.Random) -> int:
    """Trials until a success, by the inverse of the distribution, shifted and cut off."""
    least, most = _W2_TOKENS
    trials = math.ceil(math.log(1 - draw.random()) / math.log(1 - 1 / (_W2_MEAN_TOKENS - least + 1)))
    return min(most, least + max(0, trials - 1))


def poisson(count: int, rate: float, seed: int = 3) -> list[float]:
    """Moments, in seconds from the start, of `count` arrivals at `rate` a second that know nothing of each other."""
    draw = random.Random(seed)
    return list(itertools.accumulate(draw.expovariate(rate) for _ in range(count)))
