"""How large a job's images are decoded, so that the prompt fits where they are the reason that it does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vqa.images.fit import Fit

#: halvings of the interval in which a scale is searched: its error is below one pixel of the largest image
_HALVINGS = 32


@dataclass(frozen=True, slots=True)
class Shown:
    """An image in a prompt: its whole size in pixels, and the most pixels that it is shown at."""

    width: int
    height: int
    max_pixels: int

    def tokens(self, fit: Fit, max_pixels: float) -> int:
        """Return how many tokens it becomes at no more than `max_pixels`, nor than its own limit."""
        most = int(min(max_pixels, self.max_pixels))
        capped = fit.capped(most)
        return capped.tokens(*capped.size(self.width, self.height))


def even_scale(images: Sequence[Shown], fit: Fit, tokens: int) -> float | None:
    """Return the largest factor of all images' pixels at which they become at most `tokens` tokens together.

    No image is made smaller than the model's own least size, unless it was before. None if they do not fit then either.
    """

    def total(scale: float) -> int:
        return sum(image.tokens(fit, at_scale(image.max_pixels, scale, fit)) for image in images)

    return _largest(total, tokens, 0.0, 1.0)


def at_scale(max_pixels: int, scale: float, fit: Fit) -> int:
    """Return the limit of an image's pixels, scaled by the factor; never below the model's own least size."""
    return max(int(max_pixels * scale), min(max_pixels, fit.min_pixels))


def even_bound(images: Sequence[Shown], fit: Fit, tokens: int) -> int | None:
    """Return the most tokens of each image, as `max_image_tokens`, with which they become at most `tokens` together."""
    token = fit.factor**2

    def total(bound: float) -> int:
        return sum(image.tokens(fit, int(bound) * token) for image in images)

    found = _largest(total, tokens, 4, fit.max_pixels / token)
    return None if found is None else int(found)


def _largest(total: Callable[[float], int], most: int, low: float, high: float) -> float | None:
    """Return nearly the largest number of the interval whose total, which rises, is at most `most`."""
    if total(low) > most:
        return None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if total(middle) > most:
            high = middle
        else:
            low = middle
    return low
