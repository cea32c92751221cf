"""Models that think before they answer: whether a chat template knows thoughts, and which tokens end one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from workers.engine.text.detokenizer import decode

#: how Qwen's, GLM's, DeepSeek's and other models mark a thought
OPEN, CLOSE = "<think>", "</think>"

#: as these models' chat templates end one
_ENDING = f"\n{CLOSE}\n\n"


@dataclass(frozen=True, slots=True, eq=False)
class ThoughtMarks:
    """How a tokenizer writes the ends of a thought."""

    #: the tokens `<think>` and `</think>`; None where several tokens spell them
    open_id: int | None
    close_id: int | None
    #: the tokens of `</think>` on a line of its own, and of the empty line after it
    ending: tuple[int, ...]
    #: a copy for guides, which the engine's thread uses; None if `</think>` is a token
    tokenizer: Any

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> ThoughtMarks:
        """Read them; `tokenizer` must belong to the calling thread."""
        ending = tuple(tokenizer(_ENDING, add_special_tokens=False)["input_ids"])
        added = tokenizer.get_added_vocab()
        open_id, close_id = added.get(OPEN), added.get(CLOSE)
        return cls(open_id, close_id, ending, copy.deepcopy(tokenizer) if close_id is None else None)

    @property
    def newlines(self) -> tuple[int, ...]:
        """The tokens of the empty line after the token `</think>`; none where several tokens spell it."""
        return () if self.close_id is None else self.ending[self.ending.index(self.close_id) + 1 :]

    def end(self, thought: Sequence[int]) -> bool:
        """Whether the last of a thought's tokens ends it."""
        if self.close_id is not None:
            return thought[-1] == self.close_id
        # each token adds at least one character
        return CLOSE in decode(self.tokenizer, thought[-len(CLOSE) :])

    def split(self, thought: Sequence[int], tokenizer: Any) -> tuple[str | None, str]:
        """Return the text of a thought's tokens, and what the last token adds to the answer; None for no text."""
        if self.close_id is not None:
            text, rest = decode(tokenizer, [token for token in thought if token != self.close_id]), ""
        else:
            text, _, rest = decode(tokenizer, thought).partition(CLOSE)
        return text.strip() or None, rest.lstrip("\n")


def knows_thoughts(processor: Any) -> bool:
    """Whether the model may write a thought: its chat template speaks of them."""
    of_tokenizer = getattr(processor.tokenizer, "chat_template", None)
    template = str(getattr(processor, "chat_template", None) or of_tokenizer)
    return OPEN in template or CLOSE in template


def opens_thought(processor: Any) -> bool:
    """Whether every answer begins inside a thought, because the prompt that the template writes ends in `<think>`."""
    if not knows_thoughts(processor):
        return False
    text: dict[str, str] = {"type": "text", "text": "?"}
    for content in ([text], [{"type": "image"}, text]):
        chat = [{"role": "user", "content": content}]
        try:
            prompt = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        except TemplateError:
            # it refuses this chat, or is wrong; a prompt tells
            continue
        return str(prompt).rstrip().endswith(OPEN)
    return False


def is_in_thought(text: str) -> bool:
    """Whether the beginning of an answer ends inside a thought."""
    return text.rfind(OPEN) > text.rfind(CLOSE)
