"""Grammars as llguidance reads them. It is imported when a grammar is first needed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer


def json_grammar(schema: str) -> str:
    """Of the values that are valid by a schema (an object in JSON), written as `json.dumps` writes them on one line.

    Where spaces are free, a model that has nothing to say writes them until it is cut. Raises ValueError for what is
    nested too deep, or has half of a surrogate pair in it.
    """
    from llguidance import LLMatcher

    try:
        return LLMatcher.grammar_from_json_schema(
            schema,
            overrides={
                "item_separator": ", ",
                "key_separator": ": ",
                "whitespace_flexible": False,
                # what cannot be kept to is refused
                "lenient": False,
                "coerce_one_of": False,
            },
        )
    except ValueError:
        raise ValueError("the schema is nested too deep, or holds what is no character") from None


def one_of(texts: Iterable[str]) -> str:
    """Of these texts."""
    from llguidance import LLMatcher

    # a string of Lark's is one of JSON's
    return LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, texts)))


def matcher(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """What follows a text through the grammar; an error in either is found by asking it."""
    from llguidance import LLMatcher

    return LLMatcher(tokenizer, grammar, log_level=0, limits=_limits())


def _limits() -> LLParserLimits:
    from llguidance import LLParserLimits

    return LLParserLimits(
        # an object of some 1,500 optional properties: any of them may be the next
        max_items_in_row=10_000,
        # of one or two kilobytes each
        max_lexer_states=50_000,
        # messages without the text that is being made
        verbose_errors=False,
    )
