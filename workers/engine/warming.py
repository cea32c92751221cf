"""A model's first prompt: what is done once is done then, and a model that does not answer is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image

from vqa.errors import NotReady
from workers.engine.base import Prompt, Turn
from workers.engine.picture import Picture
from workers.engine.runtime.pending import Held


def warm_up(pipe: Any, answer: Callable[[Held], None], size: tuple[int, int] = (64, 64)) -> None:
    """Let `answer` settle a question about a white picture of this width and height. Raises NotReady."""
    picture = Picture.of(Image.new("RGB", size, "white"))
    held = Held(Prompt("warm-up", (Turn("user", (picture, "?")),), max_new_tokens=2, lane="bulk"))
    try:
        answer(held)
        held.future.result(0)
    except Exception as error:
        # a model that fails on this would fail on everything
        raise NotReady(f"{pipe.model.name_or_path} (VQA_MODEL) is loaded but does not answer: {error}") from error
