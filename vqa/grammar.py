"""Grammars as llguidance reads them. It is imported when a grammar is first needed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from vqa.errors import AnswerTooLong, InvalidJob

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
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


#: the earlier, the better: what ends something that has begun, then what is easily read
_ORDER = b'"}],@0123456789abcdefghijklmnopqrstuvwxyz' + bytes(range(32, 127)) + bytes(range(256))

#: a quote is this much better still, as the others would go on within a string
_QUOTE = 1000

#: so much worse is a byte each time that it was taken: what could go on for ever ends
_TIRING = 8

_RANKS = [_ORDER.index(byte) - _QUOTE * (byte == ord('"')) for byte in range(256)]


#: bytes after which a grammar that has not ended is taken for one that can
_TRIAL = 1000

#: What its messages begin with or hold, and what is told of it instead: they quote the schema, which is a user's.
_REASONS = (
    ("Unimplemented keys", None),
    ("oneOf constraints", "oneOf is not supported where its schemas may overlap; use anyOf"),
    ("min/maxProperties", "minProperties and maxProperties are not supported beside optional properties"),
    ("patternProperty regexes", "its patternProperties overlap"),
    ("Unknown format", "a format in it is not known"),
    ("Invalid type", "a type in it is not one of JSON's"),
    ("Unsatisfiable schema", "no value is valid by it"),
    ("NoExtension", "no value is valid by it"),
    ("does not fetch resources", "a $ref in it points outside of it, and nothing is fetched"),
    ("does not exist", "a $ref in it points nowhere"),
    ("look-around", "a pattern in it looks ahead or behind, which is not supported"),
    ("regex parse error", "a pattern in it is no regular expression"),
    ("Too many items", "it is too large, or goes round in circles for ever"),
    ("recursion limit", "it is nested too deep"),
    ("too large", "it is too large"),
    ("max is", "it is too large"),
    ("limit", "it is too large"),
    ("regex", "a pattern in it is too complex"),
    ("exer", "a pattern in it is too complex"),
)


def short_text(grammar: str, most: int) -> str:
    """A short one, always the same.

    Raises AnswerTooLong where `most` bytes do not do, InvalidJob where nothing does.
    """
    tried = _Trial.from_grammar(grammar, most)
    if tried.why is not None:
        raise InvalidJob(f"the response format cannot be kept to: {tried.why}")
    if not tried.complete:
        raise AnswerTooLong(f"the structured answer did not fit max_new_tokens={most}; cut, it does not parse")
    return tried.made.decode()


def refusal(grammar: str) -> str | None:
    """Why nothing can be made by the grammar, in words without the user's; None where something can."""
    return _Trial.from_grammar(grammar, _TRIAL).why


@dataclass(frozen=True, slots=True)
class _Trial:
    """What came of making a text."""

    made: bytes
    complete: bool
    #: what went wrong, in words without the user's
    why: str | None

    @classmethod
    def from_grammar(cls, grammar: str, most: int) -> _Trial:
        follower, made, taken = matcher(_bytes(), grammar), bytearray(), Counter[int]()
        # what begins nowhere is only found out by a mask
        allowed = follower.compute_bitmask()
        while not (follower.is_stopped() or follower.is_accepting()) and len(made) < most:
            byte = _best(allowed, taken)
            taken[byte] += 1
            made.append(byte)
            follower.consume_token(byte)
            allowed = follower.compute_bitmask()
        if follower.is_error() or (follower.is_stopped() and not follower.is_accepting()):
            return cls(bytes(made), False, _reason(follower))
        return cls(bytes(made), follower.is_accepting(), None)


def _best(allowed: bytes, taken: Counter[int]) -> int:
    possible = (byte for byte in range(256) if allowed[byte // 8] >> byte % 8 & 1)
    return min(possible, key=lambda byte: _RANKS[byte] + _TIRING * taken[byte])


def _reason(follower: LLMatcher) -> str:
    message = f"{follower.get_error()} {follower.stop_reason()}"
    for sign, reason in _REASONS:
        if sign in message:
            # the names of keywords that there are in JSON schemas, and no others
            return reason or "not supported: " + message.partition("[")[2].partition("]")[0].replace('"', "")
    return "it cannot be compiled"


@cache
def _bytes() -> LLTokenizer:
    from llguidance import LLTokenizer

    return LLTokenizer("byte")
