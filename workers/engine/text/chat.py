"""Encodes prompts for an engine: puts the chat into its template and turns errors of the processor into VQAErrors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from jinja2 import TemplateError

from vqa.errors import EngineError, InvalidJob, PromptTooLong, VQAError
from workers.engine.base import Prompt, Turn
from workers.engine.image import RGBImage
from workers.engine.text.grammar import Guide, Guides
from workers.engine.text.special_tokens import SpecialTokens
from workers.engine.text.thoughts import opens_thought
from workers.engine.video import Video

#: no tokenizer exceeds it; refuses a text that is far too long before it is tokenized, which takes seconds
_MAX_CHARACTERS_PER_TOKEN = 128

#: of the error of a job with an image or a video that its turn's template leaves out
NO_PLACE = "the model's chat template has no place for {} in one of these turns"

Chat = list[dict[str, Any]]
Inputs = TypeVar("Inputs")


class ChatEncoder(ABC, Generic[Inputs]):
    """A loaded model's preprocessing. Belongs to one thread, as the processor's tokenizer does."""

    def __init__(self, processor: Any, slot_tokens: int, guides: Guides | None = None) -> None:
        """`guides` may be None if no prompt has a grammar."""
        self.processor = processor
        self._slot_tokens = slot_tokens
        self._special_tokens = SpecialTokens(processor)
        self._opens_thought = opens_thought(processor)
        self._guides = guides

    @abstractmethod
    def process(self, chat: Chat, prompt: Prompt) -> Inputs:
        """Make the engine's inputs; may raise any error of a processor."""

    @abstractmethod
    def count_tokens(self, inputs: Inputs) -> int:
        """Count the prompt's tokens."""

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
        if (excess := tokens + prompt.params.max_new_tokens - self._slot_tokens) > 0:
            needed = self._slot_tokens + excess
            too_long = self._too_long(str(tokens), prompt, f" by {excess}; VQA_SLOT_TOKENS={needed} would hold them")
            too_long.excess, too_long.limit = excess, self._slot_tokens
            raise too_long
        return inputs

    def guide(self, prompt: Prompt) -> Guide | None:
        """Make the guide for a prompt's answer; None if it may be any text. Raises InvalidJob."""
        if prompt.params.forced is not None:
            return self._forced(prompt.params.forced)
        if prompt.params.grammar is None:
            return None
        if self._opens_thought and prompt.turns[-1].role != "assistant":
            raise InvalidJob(
                "response_format: this model thinks before it answers (its chat template ends the prompt in <think>), "
                "and a structured answer would be written inside the thought; ask without it"
            )
        assert self._guides is not None
        return self._guides.guide(prompt.params.grammar)

    def _forced(self, text: str) -> Guide:
        assert self._guides is not None
        ids: list[int] = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        # a text that spells a special token must not become one
        return self._guides.forced(self._guides.spell(text) if self._special_tokens.occur_in(ids) else ids)

    def _too_long(self, tokens: str, prompt: Prompt, by: str = "") -> PromptTooLong:
        return PromptTooLong(
            f"{tokens} prompt tokens and max_new_tokens={prompt.params.max_new_tokens} exceed the {self._slot_tokens} "
            f"tokens of a slot (VQA_SLOT_TOKENS){by}"
        )

    def _message(self, turn: Turn) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        for part in turn.parts:
            if isinstance(part, Video):
                content.append({"type": "video", "video": [frame.pil for frame in part.frames]})
            elif isinstance(part, RGBImage):
                content.append({"type": "image", "image": part.pil})
            elif content and content[-1]["type"] == "text":
                # joined before escaping: a special token could be split over two parts
                content[-1]["text"] += part
            else:
                content.append({"type": "text", "text": part})
        for entry in content:
            if entry["type"] == "text":
                entry["text"] = self._special_tokens.escape(entry["text"])
        return {"role": turn.role, "content": content}
