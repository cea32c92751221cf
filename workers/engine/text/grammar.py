"""Guides of grammars, by llguidance, and of texts. Independent of the model; needs no torch."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from vqa.errors import InvalidJob
from vqa.structured_output.grammar import matcher
from workers.engine.settings import MAX_REASONING_TOKENS
from workers.engine.text.forced import ForcedTokens
from workers.engine.text.guide import Guide
from workers.engine.text.vocabulary import count_tokens, vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

log = logging.getLogger(__name__)

#: compiled grammars to cache: all jobs of a bulk submission usually share one
_CACHED = 32


class GrammarGuide(Guide):
    """The state of one answer in its grammar."""

    def __init__(self, matcher: LLMatcher, num_tokens: int) -> None:
        """Start from `matcher`, which is shared and not changed."""
        self._start = matcher
        super().__init__(num_tokens)

    def restart(self) -> None:
        self._matcher = self._start.deep_copy()

    @property
    def matcher(self) -> LLMatcher:
        return self._matcher

    def take(self, token: int) -> bool:
        return self._matcher.consume_token(token)

    @property
    def complete(self) -> bool:
        return not self._matcher.is_error() and self._matcher.is_accepting()

    @property
    def over(self) -> bool:
        return self._matcher.is_stopped()


class Guides:
    """Makes the guides for one model's tokens. Thread-safe."""

    def __init__(
        self, tokenizer: Any, eos_ids: Collection[int], max_reasoning_tokens: int = MAX_REASONING_TOKENS
    ) -> None:
        """`tokenizer` must belong to the calling thread; `eos_ids` end a text."""
        self.max_reasoning_tokens = max_reasoning_tokens
        self.eos_ids = frozenset(eos_ids)
        #: ends a forced text: of the tokens that end one, the one that chat templates write
        own = tokenizer.eos_token_id
        self._end = [own] if own in self.eos_ids else sorted(self.eos_ids)[:1]
        self._lock = threading.Lock()
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._tokenizer: LLTokenizer | None = None
        self._error = ""
        # at the start, not for the first job: with 151,936 tokens it blocks the process, and so the card, for a second
        try:
            self._tokenizer = vocabulary(tokenizer, eos_ids)
        except InvalidJob as error:
            self._error = str(error)
            log.warning("%s: jobs with a response_format fail", error)
        #: of the vocabulary, as masks have it
        self.num_tokens: int = self._tokenizer.vocab_size if self._tokenizer else count_tokens(tokenizer)

    def guide(self, grammar: str) -> Guide:
        """Make the guide for an answer that must match `grammar`. Raises InvalidJob."""
        if self._tokenizer is None:
            raise InvalidJob(self._error)
        # compiling releases the GIL; the lock keeps another thread from compiling the same grammar meanwhile
        with self._lock:
            compiled = self._compiled.pop(grammar, None) or _compiled(self._tokenizer, grammar)
            self._compiled[grammar] = compiled
            if len(self._compiled) > _CACHED:
                self._compiled.popitem(last=False)
        return GrammarGuide(compiled, self.num_tokens)

    def spell(self, text: str) -> list[int]:
        """Return the text's tokens without special ones, whatever it contains. Raises InvalidJob."""
        if self._tokenizer is None:
            raise InvalidJob(self._error)
        return list(self._tokenizer.tokenize_str(text))

    def forced(self, ids: Sequence[int]) -> ForcedTokens:
        """Make the guide for the answer of exactly these tokens, and the end of text."""
        return ForcedTokens([*ids, *self._end], self.num_tokens)


def _compiled(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    compiled = matcher(tokenizer, grammar)
    if compiled.is_error():
        raise InvalidJob("the response format is too large for this model's tokenizer")
    return compiled
