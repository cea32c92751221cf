"""How many tokens an image may become: what its job asks for, within what the worker allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from vqa.errors import InvalidJob
from vqa.images.fit import Fit
from vqa.jobs.message import Detail
from workers.engine.settings import EngineSettings

#: most tokens of an image with `detail: low`
LOW_TOKENS = 256


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """The most tokens of an image by detail; the model's own limit may be less."""

    low: int = LOW_TOKENS
    auto: int = 1024
    high: int = 4096

    @classmethod
    def from_settings(cls, settings: EngineSettings) -> Self:
        auto = settings.max_image_tokens
        return cls(min(LOW_TOKENS, auto), auto, settings.high_image_tokens)

    def most(self, detail: Detail, max_image_tokens: int | None) -> int:
        """Return the most tokens of an image of a job. Raises InvalidJob if the job's bound is over the worker's."""
        tokens = {"low": self.low, "auto": self.auto, "high": self.high}[detail]
        if max_image_tokens is None:
            return tokens
        if max_image_tokens > self.high:
            raise InvalidJob(
                f"max_image_tokens={max_image_tokens} is more than this worker's VQA_HIGH_IMAGE_TOKENS={self.high}"
            )
        return min(tokens, max_image_tokens)

    def usual_fit(self, fit: Fit) -> Fit:
        """Return the sizes of images without a detail; `fit` has those of the highest one."""
        return fit.capped(self.auto * fit.factor**2)

    def about(self, fit: Fit) -> dict[str, Any]:
        """Describe for the list of workers how images are scaled: by default, and in pixels at the highest detail."""
        usual = self.usual_fit(fit)
        return {
            "factor": usual.factor,
            "min_pixels": usual.min_pixels,
            "max_pixels": usual.max_pixels,
            "high": fit.max_pixels,
            "resample": usual.resample,
        }
