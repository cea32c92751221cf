"""Grammars for llguidance, which is imported when the first grammar is needed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from vqa.errors import AnswerTooLong, InvalidJob

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer


def json_grammar(schema: str) -> str:
    """Return the grammar of the values that are valid by a JSON schema, on one line as `json.dumps` writes them.

    Whitespace is fixed, because a model may otherwise generate it without end. Raises ValueError for a schema that is
    nested too deep or holds a lone surrogate.
    """
    from llguidance import LLMatcher

    try:
        return LLMatcher.grammar_from_json_schema(
            schema,
            overrides={
                "item_separator": ", ",
                "key_separator": ": ",
                "whitespace_flexible": False,
                # refuse what cannot be guaranteed
                "lenient": False,
                "coerce_one_of": False,
            },
        )
    except ValueError:
        raise ValueError("the schema is nested too deep, or holds an invalid character") from None


def one_of(texts: Iterable[str]) -> str:
    """Return the grammar of exactly one of the texts."""
    from llguidance import LLMatcher

    # Lark writes string literals as JSON does
    return LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, texts)))


def matcher(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """Return a matcher for the grammar; errors in the grammar or the text are read from it with `is_error`."""
    from llguidance import LLMatcher

    return LLMatcher(tokenizer, grammar, log_level=0, limits=_limits())


def _limits() -> LLParserLimits:
    from llguidance import LLParserLimits

    return LLParserLimits(
        # what may be next at one point; a row of 2,000 takes about a millisecond
        max_items_in_row=2_000,
        # one or two kilobytes each
        max_lexer_states=50_000,
        # messages must not quote the generated text
        verbose_errors=False,
    )


#: bytes by preference: first those that close something, then readable ones
_ORDER = b'"}],@0123456789abcdefghijklmnopqrstuvwxyz' + bytes(range(32, 127)) + bytes(range(256))

#: bonus of a quote, which ends a string
_QUOTE = 1000

#: penalty of a byte for each earlier use, so that the text ends
_REPEAT = 8

_RANKS = [_ORDER.index(byte) - _QUOTE * (byte == ord('"')) for byte in range(256)]


#: bytes after which a trial stops and the grammar is taken to be possible
_TRIAL = 1000

#: llguidance makes patterns of bounds as well
_TOO_COMPLEX = "it has a pattern, or the bounds of a number, that are too complex"

#: parts of llguidance's messages, which quote the user's schema, and what is reported instead
_REASONS = (
    ("Unimplemented keys", None),
    ("oneOf constraints", "oneOf is not supported if its schemas may overlap; use anyOf"),
    ("min/maxProperties", "minProperties and maxProperties are not supported together with optional properties"),
    ("patternProperty regexes", "its patternProperties overlap"),
    ("Unknown format", "it has an unknown format"),
    ("Invalid type", "it has a type that is none of JSON's"),
    ("Unsatisfiable schema", "no value is valid by it"),
    ("NoExtension", "no value is valid by it"),
    ("does not fetch resources", "a $ref points outside of it; external schemas are not fetched"),
    ("does not exist", "the target of a $ref does not exist"),
    ("look-around", "it has a pattern with look-ahead or look-behind, which is not supported"),
    ("regex parse error", "it has a pattern that is no regular expression"),
    ("Too many items", "it is too large, or refers to itself without end"),
    ("recursion limit", "it is nested too deep"),
    ("too large", "it is too large"),
    ("max is", "it is too large"),
    ("limit", "it is too large"),
    ("regex", _TOO_COMPLEX),
    ("exer", _TOO_COMPLEX),
)


def short_text(grammar: str, most: int) -> str:
    """Return a short text of the grammar, always the same one.

    Raises AnswerTooLong if it has more than `most` bytes, InvalidJob if the grammar has no text.
    """
    tried = _Trial.from_grammar(grammar, most)
    if tried.why is not None:
        raise InvalidJob(f"the response format is impossible: {tried.why}")
    if not tried.complete:
        raise AnswerTooLong(f"the structured answer does not fit max_new_tokens={most}")
    return tried.text.decode()


def refusal(grammar: str) -> str | None:
    """Return why the grammar has no text, quoting no user data; None if it has one."""
    return _Trial.from_grammar(grammar, _TRIAL).why


@dataclass(frozen=True, slots=True)
class _Trial:
    """The result of generating a text by a grammar."""

    text: bytes
    complete: bool
    #: what went wrong, quoting no user data
    why: str | None

    @classmethod
    def from_grammar(cls, grammar: str, most: int) -> _Trial:
        follower, made, taken = matcher(_bytes(), grammar), bytearray(), Counter[int]()
        # only a mask shows that no text can begin
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
    return min(possible, key=lambda byte: _RANKS[byte] + _REPEAT * taken[byte])


def _reason(follower: LLMatcher) -> str:
    message = f"{follower.get_error()} {follower.stop_reason()}"
    for sign, reason in _REASONS:
        if sign in message:
            # llguidance lists only keywords of JSON Schema here, no user data
            return reason or "not supported: " + message.partition("[")[2].partition("]")[0].replace('"', "")
    return "it cannot be compiled"


@cache
def _bytes() -> LLTokenizer:
    from llguidance import LLTokenizer

    return LLTokenizer("byte")
