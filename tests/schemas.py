"""Small JSON schemas for property tests: every value of theirs is short."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

#: with what a tokenizer or a grammar could take for something else
WORDS = ("red", "a b", "<|im_end|>", "<|endoftext|>", 'q"uote', "back\\slash", "é😀", "", "start:", "/x/", "\n\t", "{}")

Schema = dict[str, Any]


def _bounded(least: int, most: int) -> Schema:
    return {"type": "integer", "minimum": min(least, most), "maximum": max(least, most)}


def _object(fields: dict[str, Schema], needed: int) -> Schema:
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields)[:needed],
        "additionalProperties": False,
    }


leaves = st.one_of(
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "string", "format": "date"}]),
    st.builds(_bounded, st.integers(-200, 200), st.integers(-200, 200)),
    st.builds(lambda most: {"type": "string", "maxLength": most}, st.integers(0, 6)),
    st.just({"type": "string", "pattern": "^[a-c]{2}-[0-9]{1,3}$"}),
    st.builds(lambda words: {"enum": words}, st.lists(st.sampled_from([*WORDS, 1, None]), min_size=1, unique=True)),
    st.builds(lambda word: {"const": {"k": [word]}}, st.sampled_from(WORDS)),
)


def _around(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    return st.one_of(
        st.builds(
            lambda items, least, more: {"type": "array", "items": items, "minItems": least, "maxItems": least + more},
            inner,
            st.integers(0, 2),
            st.integers(0, 1),
        ),
        st.builds(_object, st.dictionaries(st.sampled_from(WORDS), inner, max_size=3), st.integers(0, 3)),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=2)),
    )


schemas: st.SearchStrategy[Schema] = st.recursive(leaves, _around, max_leaves=4)
