"""From a prompt to what one engine computes with: the chat as its template takes it, and what is wrong with it told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from jinja2 import TemplateError

from vqa.errors import EngineError, InvalidJob, PromptTooLong, VQAError
from workers.engine.base import Prompt, Turn
from workers.engine.text.grammar import Guide, Guides
from workers.engine.text.special_tokens import SpecialTokens

#: no tokenizer makes fewer tokens of a longer text; refused before it costs the tokenizer seconds
_MOST_CHARACTERS_A_TOKEN = 128

Chat = list[dict[str, Any]]
Made = TypeVar("Made")


class ChatEncoder(ABC, Generic[Made]):
    """A loaded model's preprocessing. Belongs to one thread, as the processor's tokenizer does."""

    def __init__(self, processor: Any, slot_tokens: int, guides: Guides | None = None) -> None:
        """Without `guides` no prompt may have a grammar."""
        # its methods have no types
        self.processor = processor
        self._slot_tokens = slot_tokens
        self._control = SpecialTokens(processor)
        self._guides = guides

    @abstractmethod
    def process(self, chat: Chat, prompt: Prompt) -> Made:
        """What the engine computes with; may raise whatever a processor raises."""

    @abstractmethod
    def count_tokens(self, made: Made) -> int:
        """How many tokens of prompt that is."""

    def encode(self, prompt: Prompt) -> Made:
        """Made of the prompt. Raises PromptTooLong, or another VQAError where the processor refuses it."""
        characters = sum(len(part) for turn in prompt.turns for part in turn.parts if isinstance(part, str))
        self._check_fits("at least ", characters // _MOST_CHARACTERS_A_TOKEN, prompt.params.max_new_tokens)
        try:
            made = self.process([self._message(turn) for turn in prompt.turns], prompt)
            tokens = self.count_tokens(made)
        except VQAError:
            raise
        except UnicodeEncodeError:
            raise InvalidJob("the text holds half of a surrogate pair, which is no character") from None
        except TemplateError:
            raise InvalidJob("the model's chat template refuses this chat: the order of its roles, or a role") from None
        except (ValueError, TypeError) as error:
            # deterministic: an image in a turn that shows none, for example
            raise InvalidJob(f"the model's processor refuses this chat ({type(error).__name__})") from None
        except Exception as error:
            # processors raise of many kinds, and their words may hold the user's
            raise EngineError(f"the model's processor failed on this prompt ({type(error).__name__})") from None
        self._check_fits("", tokens, prompt.params.max_new_tokens)
        return made

    def guide(self, prompt: Prompt) -> Guide | None:
        """What the prompt's answer is to be kept to its grammar by. Raises InvalidJob."""
        if prompt.params.grammar is None:
            return None
        assert self._guides is not None
        return self._guides.guide(prompt.params.grammar)

    def _check_fits(self, about: str, prompt_tokens: int, max_new_tokens: int) -> None:
        if prompt_tokens + max_new_tokens > self._slot_tokens:
            raise PromptTooLong(
                f"{about}{prompt_tokens} tokens of prompt and max_new_tokens={max_new_tokens} are more than the "
                f"{self._slot_tokens} tokens of a slot (VQA_SLOT_TOKENS)"
            )

    def _message(self, turn: Turn) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        for part in turn.parts:
            if not isinstance(part, str):
                content.append({"type": "image", "image": part.pil})
            elif content and content[-1]["type"] == "text":
                # joined before it is made plain: a token could be split over two parts
                content[-1]["text"] += part
            else:
                content.append({"type": "text", "text": part})
        for entry in content:
            if entry["type"] == "text":
                entry["text"] = self._control.plain(entry["text"])
        return {"role": turn.role, "content": content}
