"""Keeps answers to grammars: which tokens may come next, by llguidance. Knows no model and needs no torch."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from vqa.errors import InvalidJob
from vqa.grammar import matcher
from workers.engine.vocabulary import vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

#: compiled grammars that are kept: a bulk submission has one for all of its jobs
_KEPT = 32


class Guide:
    """One answer on its way through its grammar. Belongs to one thread at a time."""

    def __init__(self, matcher: LLMatcher) -> None:
        """`matcher` stays as it is: others begin with it, too."""
        self._begin = matcher
        self.restart()

    def restart(self) -> None:
        """From the first token again."""
        self._matcher = self._begin.deep_copy()

    def mask(self) -> bytes:
        """The tokens that may come next, a bit each, the first one lowest; those that end the text where it may end.

        An error, such as a grammar that is too wide here, is told by the `take` that follows.
        """
        return self._matcher.compute_bitmask()

    def take(self, token: int) -> bool:
        """Go on by this token; False where it may not come."""
        return self._matcher.consume_token(token)

    @property
    def complete(self) -> bool:
        """Whether the text so far has the form that was asked for."""
        return not self._matcher.is_error() and self._matcher.is_accepting()

    @property
    def over(self) -> bool:
        """Whether nothing but an end of text may follow."""
        return self._matcher.is_stopped()


class Guides:
    """Makes guides for the tokens of one model; for any thread."""

    def __init__(self, tokenizer: Any, end_ids: Collection[int]) -> None:
        """`tokenizer` belongs to this thread; `end_ids` are the tokens that end a text."""
        self._lock = threading.Lock()
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._tokenizer: LLTokenizer | InvalidJob
        # not when the first job needs it: of 151,936 tokens it stops the whole process, and so the card, for a second
        try:
            self._tokenizer = vocabulary(tokenizer, end_ids)
        except InvalidJob as error:
            self._tokenizer = error

    def guide(self, grammar: str) -> Guide:
        """For an answer by `grammar`. Raises InvalidJob."""
        # compiling a large grammar lets go of the interpreter, and of nobody who wants the same one
        with self._lock:
            compiled = self._compiled.pop(grammar, None) or self._compile(grammar)
            self._compiled[grammar] = compiled
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        return Guide(compiled)

    def _compile(self, grammar: str) -> LLMatcher:
        if isinstance(self._tokenizer, InvalidJob):
            raise InvalidJob(str(self._tokenizer))
        compiled = matcher(self._tokenizer, grammar)
        if compiled.is_error():
            raise InvalidJob("the response format is too large for this model's tokenizer")
        return compiled
