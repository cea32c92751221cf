"""Guided decoding: which tokens a grammar allows next, by llguidance. Independent of the model; needs no torch."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy

from vqa.errors import InvalidJob
from vqa.grammar import matcher
from workers.engine.text.vocabulary import vocabulary

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher, LLTokenizer
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

#: compiled grammars to cache: all jobs of a bulk submission usually share one
_CACHED = 32


class Guide:
    """The state of one answer in its grammar. Used by one thread at a time."""

    def __init__(self, matcher: LLMatcher, tokens: int) -> None:
        """Start from `matcher`, which is shared and not changed; its vocabulary has `tokens` tokens."""
        self._start = matcher
        self.tokens = tokens
        self.restart()

    def restart(self) -> None:
        self.matcher = self._start.deep_copy()

    def take(self, token: int) -> bool:
        """Advance by a token; return False if the grammar does not allow it."""
        return self.matcher.consume_token(token)

    @property
    def complete(self) -> bool:
        """Whether the text so far matches the grammar."""
        return not self.matcher.is_error() and self.matcher.is_accepting()

    @property
    def over(self) -> bool:
        """Whether only an end of text may follow."""
        return self.matcher.is_stopped()


def masks(guides: Sequence[Guide]) -> NDArray[numpy.int32]:
    """Return the tokens that each guide allows next as bits (guides, tokens / 32), the lowest bit first.

    All guides must share a vocabulary. End-of-text tokens are allowed where the text may end. If a matcher fails, for
    example because its grammar is too complex here, its next `take` returns False.
    """
    from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par

    made = allocate_token_bitmask(len(guides), guides[0].tokens)
    fill_next_token_bitmask_par(_threads(), [(guide.matcher, n) for n, guide in enumerate(guides)], made)
    return made


@cache
def _threads() -> LLExecutor:
    from llguidance import LLExecutor

    return LLExecutor()


class Guides:
    """Compiles grammars for one model's tokens. Thread-safe."""

    def __init__(self, tokenizer: Any, eos_ids: Collection[int]) -> None:
        """`tokenizer` must belong to the calling thread; `eos_ids` end a text."""
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
        return Guide(compiled, self._tokenizer.vocab_size)


def _compiled(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    compiled = matcher(tokenizer, grammar)
    if compiled.is_error():
        raise InvalidJob("the response format is too large for this model's tokenizer")
    return compiled
