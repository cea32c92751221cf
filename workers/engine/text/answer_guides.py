"""Makes the guide for a prompt's answer: its thought, if the model thinks before it answers, then what it may be."""

from __future__ import annotations

from typing import Any

from workers.engine.base import Prompt, SamplingParams, Turn
from workers.engine.settings import MAX_REASONING_TOKENS
from workers.engine.text.grammar import Guides
from workers.engine.text.guide import Guide
from workers.engine.text.special_tokens import SpecialTokens
from workers.engine.text.thought_guide import ThoughtGuide
from workers.engine.text.thoughts import ThoughtMarks, is_in_thought, knows_thoughts, opens_thought
from workers.engine.text.vocabulary import count_tokens


class AnswerGuides:
    """Belongs to one thread, as the processor's tokenizer does."""

    def __init__(self, processor: Any, special_tokens: SpecialTokens, guides: Guides | None) -> None:
        """`guides` may be None if no answer is restricted."""
        self._tokenizer = processor.tokenizer
        self._special_tokens = special_tokens
        self._guides = guides
        self._opens_thought = opens_thought(processor)
        self._marks = ThoughtMarks.from_tokenizer(processor.tokenizer) if knows_thoughts(processor) else None
        if guides:
            self._vocabulary = guides.num_tokens, guides.eos_ids
        else:
            self._vocabulary = count_tokens(processor.tokenizer), frozenset[int]()

    def guide(self, prompt: Prompt) -> Guide | None:
        """Make the guide; None for any text without a thought. Raises InvalidJob."""
        answer, last = self._answer(prompt.params), prompt.turns[-1]
        if self._marks is None:
            return answer
        opened = self._is_in_thought(last)
        # of a restricted answer, the first token may not open a thought
        may_open = self._marks.open_id is not None and answer is None and last.role != "assistant"
        if not opened and not may_open:
            return answer
        return ThoughtGuide(self._marks, self._most(prompt.params), *self._vocabulary, answer, opened=opened)

    def _answer(self, params: SamplingParams) -> Guide | None:
        if params.forced is not None:
            return self._forced(params.forced)
        if params.grammar is None:
            return None
        assert self._guides is not None
        return self._guides.guide(params.grammar)

    def _forced(self, text: str) -> Guide:
        assert self._guides is not None
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        # a text that spells a special token must not become one
        return self._guides.forced(self._guides.spell(text) if self._special_tokens.occur_in(ids) else ids)

    def _is_in_thought(self, last: Turn) -> bool:
        """Whether the answer to a chat with this last turn begins inside a thought."""
        if last.role != "assistant":
            return self._opens_thought
        return is_in_thought("".join(part for part in last.parts if isinstance(part, str)))

    def _most(self, params: SamplingParams) -> int:
        """Return the most tokens of a thought."""
        if params.forced is not None:
            # texts whose scores are compared must follow the same thought: none
            return 0
        if params.max_reasoning_tokens is not None:
            return params.max_reasoning_tokens
        return self._guides.max_reasoning_tokens if self._guides else MAX_REASONING_TOKENS
