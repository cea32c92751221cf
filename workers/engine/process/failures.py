"""Errors of prompts as they cross between processes: by the name of their class in `vqa.errors`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from vqa import errors
from vqa.errors import EngineError, PromptTooLong, VQAError

_CLASSES = {name: each for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, VQAError)}


@dataclass(frozen=True, slots=True)
class Failure:
    """An error's class and text, and what a PromptTooLong says of its tokens."""

    name: str
    text: str
    excess: int | None = None
    limit: int | None = None

    @classmethod
    def from_error(cls, error: BaseException, doing: str = "the engine failed on this prompt") -> Self:
        """Describe an error; one outside the tree becomes an EngineError with what failed and the error's class."""
        if not isinstance(error, VQAError):
            return cls(EngineError.__name__, f"{doing} ({type(error).__name__})")
        if isinstance(error, PromptTooLong):
            return cls(type(error).__name__, str(error), error.excess, error.limit)
        return cls(type(error).__name__, str(error))

    def error(self) -> VQAError:
        error = _CLASSES.get(self.name, EngineError)(self.text)
        if isinstance(error, PromptTooLong):
            error.excess, error.limit = self.excess, self.limit
        return error
