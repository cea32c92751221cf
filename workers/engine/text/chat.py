"""Encodes prompts for an engine: puts the chat into its template and turns errors of the processor into VQAErrors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, Protocol, TypeVar

from jinja2 import TemplateError

from vqa.errors import EngineError, InvalidJob, PromptTooLong, VQAError
from workers.engine.base import Prompt, Turn
from workers.engine.image import RGBImage
from workers.engine.text.answer_guides import AnswerGuides
from workers.engine.text.grammar import Guides
from workers.engine.text.guide import Guide, max_tokens
from workers.engine.text.special_tokens import SpecialTokens
from workers.engine.text.thought_guide import ThoughtGuide
from workers.engine.video import Video

#: no tokenizer exceeds it; refuses a text that is far too long before it is tokenized, which takes seconds
_MAX_CHARACTERS_PER_TOKEN = 128

#: of the error of a job with an image or a video that its turn's template leaves out
NO_PLACE = "the model's chat template has no place for {} in one of these turns"

Chat = list[dict[str, Any]]


class HasGuide(Protocol):
    """An engine's inputs of a prompt."""

    @property
    def guide(self) -> Guide | None: ...


Inputs = TypeVar("Inputs", bound=HasGuide)


class ChatEncoder(ABC, Generic[Inputs]):
    """A loaded model's preprocessing. Belongs to one thread, as the processor's tokenizer does."""

    def __init__(self, processor: Any, slot_tokens: int, guides: Guides | None = None) -> None:
        """`guides` may be None if no prompt has a grammar."""
        self.processor = processor
        self._slot_tokens = slot_tokens
        self._special_tokens = SpecialTokens(processor)
        self._answer_guides = AnswerGuides(processor, self._special_tokens, guides)

    @abstractmethod
    def process(self, chat: Chat, prompt: Prompt) -> Inputs:
        """Make the engine's inputs; may raise any error of a processor."""

    @abstractmethod
    def count_tokens(self, inputs: Inputs) -> int:
        """Count the prompt's tokens."""

    def media(self, image: RGBImage) -> Any:
        """Return what the chat has for an image or a frame: here what a processor takes."""
        return image.pil

    def encode(self, prompt: Prompt) -> Inputs:
        """Make the engine's inputs of a prompt. Raises PromptTooLong, InvalidJob or EngineError."""
        characters = sum(len(part) for turn in prompt.turns for part in turn.parts if isinstance(part, str))
        if (at_least := characters // _MAX_CHARACTERS_PER_TOKEN) + prompt.params.max_new_tokens > self._slot_tokens:
            raise self._too_long(f"at least {at_least}", prompt)
        try:
            inputs = self.process([self._message(turn) for turn in prompt.turns], prompt)
            tokens = self.count_tokens(inputs)
        except VQAError:
            raise
        except UnicodeEncodeError:
            raise InvalidJob("the text contains a lone surrogate, which is not a character") from None
        except TemplateError:
            raise InvalidJob("the model's chat template refuses this chat: a role, or the order of roles") from None
        except (ValueError, TypeError) as error:
            # deterministic, for example an image in a turn that may not have one
            raise InvalidJob(f"the model's processor refuses this chat ({type(error).__name__})") from None
        except Exception as error:
            # processors raise many kinds of errors, and their messages may contain the user's text
            raise EngineError(f"the model's processor failed on this prompt ({type(error).__name__})") from None
        self._require_room(tokens, inputs.guide, prompt)
        return inputs

    def guide(self, prompt: Prompt) -> Guide | None:
        """Make the guide for a prompt's answer; None for any text without a thought. Raises InvalidJob."""
        return self._answer_guides.guide(prompt)

    def _require_room(self, tokens: int, guide: Guide | None, prompt: Prompt) -> None:
        """Raise PromptTooLong if the prompt and its answer exceed a slot; first shorten a thought of usual length."""
        excess = tokens + max_tokens(prompt.params.max_new_tokens, guide) - self._slot_tokens
        if excess > 0 and isinstance(guide, ThoughtGuide) and prompt.params.max_reasoning_tokens is None:
            excess -= guide.shorten(excess)
        if excess > 0:
            needed = self._slot_tokens + excess
            too_long = self._too_long(str(tokens), prompt, f" by {excess}; VQA_SLOT_TOKENS={needed} would hold them")
            too_long.excess, too_long.limit = excess, self._slot_tokens
            raise too_long

    def _too_long(self, tokens: str, prompt: Prompt, by: str = "") -> PromptTooLong:
        params = prompt.params
        thought = f", max_reasoning_tokens={most}" if (most := params.max_reasoning_tokens) else ""
        return PromptTooLong(
            f"{tokens} prompt tokens and max_new_tokens={params.max_new_tokens}{thought} exceed the "
            f"{self._slot_tokens} tokens of a slot (VQA_SLOT_TOKENS){by}"
        )

    def _message(self, turn: Turn) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        for part in turn.parts:
            if isinstance(part, Video):
                content.append({"type": "video", "video": [self.media(frame) for frame in part.frames]})
            elif isinstance(part, RGBImage):
                content.append({"type": "image", "image": self.media(part)})
            elif content and content[-1]["type"] == "text":
                # joined before escaping: a special token could be split over two parts
                content[-1]["text"] += part
            else:
                content.append({"type": "text", "text": part})
        for entry in content:
            if entry["type"] == "text":
                # chat templates look for `</think>` in earlier answers, to leave out what was thought
                keeps = turn.role == "assistant"
                entry["text"] = self._special_tokens.escape(entry["text"], keep_thoughts=keeps)
        return {"role": turn.role, "content": content}
