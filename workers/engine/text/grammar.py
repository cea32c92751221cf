"""Keeps answers to grammars: which tokens may come next, by llguidance. Knows no model and needs no torch."""

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

#: compiled grammars that are kept: a bulk submission has one for all of its jobs
_KEPT = 32


class Guide:
    """One answer on its way through its grammar. Belongs to one thread at a time."""

    def __init__(self, matcher: LLMatcher, tokens: int) -> None:
        """`matcher` stays as it is: others begin with it, too. It knows so many tokens."""
        self._begin = matcher
        self.tokens = tokens
        self.restart()

    def restart(self) -> None:
        """From the first token again."""
        self.matcher = self._begin.deep_copy()

    def take(self, token: int) -> bool:
        """Go on by this token; False where it may not come."""
        return self.matcher.consume_token(token)

    @property
    def complete(self) -> bool:
        """Whether the text so far has the form that was asked for."""
        return not self.matcher.is_error() and self.matcher.is_accepting()

    @property
    def over(self) -> bool:
        """Whether nothing but an end of text may follow."""
        return self.matcher.is_stopped()


def masks(guides: Sequence[Guide]) -> NDArray[numpy.int32]:
    """(guides, tokens / 32) which tokens may come next, a bit each, the first one lowest; all have the same vocabulary.

    Those that end the text may where it may end. An error, such as a grammar that is too wide here, is told by the
    `take` that follows.
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
    """Makes guides for the tokens of one model; for any thread."""

    def __init__(self, tokenizer: Any, eos_ids: Collection[int]) -> None:
        """`tokenizer` belongs to this thread; `end_ids` are the tokens that end a text."""
        self._lock = threading.Lock()
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._tokenizer: LLTokenizer | None = None
        self._refusal = ""
        # not when the first job needs it: of 151,936 tokens it stops the whole process, and so the card, for a second
        try:
            self._tokenizer = vocabulary(tokenizer, eos_ids)
        except InvalidJob as error:
            self._refusal = str(error)
            log.warning("%s: jobs with a response_format fail", error)

    def guide(self, grammar: str) -> Guide:
        """For an answer by `grammar`. Raises InvalidJob."""
        if self._tokenizer is None:
            raise InvalidJob(self._refusal)
        # compiling a large grammar lets go of the interpreter, and of nobody who wants the same one
        with self._lock:
            compiled = self._compiled.pop(grammar, None) or _compiled(self._tokenizer, grammar)
            self._compiled[grammar] = compiled
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        return Guide(compiled, self._tokenizer.vocab_size)


def _compiled(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    compiled = matcher(tokenizer, grammar)
    if compiled.is_error():
        raise InvalidJob("the response format is too large for this model's tokenizer")
    return compiled
