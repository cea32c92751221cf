"""The workloads of `bench.engine.work` without their images: tokens of prompts and answers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from bench.engine.work import _geometric
from bench.simulation.jobs import Make, Work
from vqa.jobs.lane import Lane

#: pixels of an image for each of its tokens, and the most tokens of an image, as the engine has them by default
_PIXELS = 32 * 32
_MOST_IMAGE_TOKENS = 1024
#: of the question and the template
_TEXT_TOKENS = 26

#: makes jobs of a lane
Kind = Callable[[random.Random, Lane], Make]


def w1(draw: random.Random, lane: Lane = "interactive") -> Make:
    """W1: an image of 1024 x 768, an answer of 64 tokens."""
    tokens = 1024 * 768 // _PIXELS + _TEXT_TOKENS
    return lambda arrives: Work(arrives, lane, prompt_tokens=tokens, answer_tokens=64)


def w2(draw: random.Random, lane: Lane = "interactive") -> Make:
    """W2: images of 320 x 240 to 4000 x 3000, answers of 8 to 256 tokens."""

    def make(arrives: float) -> Work:
        width = math.exp(draw.uniform(math.log(320), math.log(4000)))
        image = min(_MOST_IMAGE_TOKENS, round(width * width * 3 / 4 / _PIXELS))
        return Work(arrives, lane, prompt_tokens=image + _TEXT_TOKENS, answer_tokens=_geometric(draw))

    return make


def echo(draw: random.Random, lane: Lane = "interactive", token_s: float = 0.0085, prompt_s: float = 0.05) -> Make:
    """Slots with the spread of W2's answers: 0.12 to 2.2 s, 0.6 on average."""

    def make(arrives: float) -> Work:
        return Work(arrives, lane, service_s=prompt_s + token_s * _geometric(draw))

    return make
