"""Messages are read as they were written."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqa import errors
from vqa.errors import EngineError, PromptTooLong, VQAError
from vqa.images.fit import Fit
from vqa.images.video_fit import QWEN3_VL
from workers.engine.base import Completion, SamplingParams, Stall, TokenLogprob
from workers.engine.process.failures import Failure
from workers.engine.process.frames import BrokenFrame
from workers.engine.process.messages import (
    TO_CHILD,
    TO_PARENT,
    Answered,
    Cancel,
    Crashed,
    Failed,
    ForgetLongestPass,
    HeldImage,
    HeldTurn,
    HeldVideo,
    Hold,
    NotLoaded,
    Piece,
    Ready,
    Release,
    Start,
    Status,
    Submit,
    ToChild,
    ToParent,
)
from workers.engine.stats import Stats

NUMBER = st.integers(0, 2**40)
# what UTF-8 cannot encode is in no job
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FLOAT = st.floats(allow_nan=False)
NATURAL = st.integers(0, 2**70)
LEAF = st.builds(TokenLogprob, NATURAL, st.binary(max_size=8), FLOAT)
LOGPROB = st.builds(TokenLogprob, NATURAL, st.binary(max_size=8), FLOAT, st.lists(LEAF, max_size=3).map(tuple))
PARAMS = st.builds(
    SamplingParams,
    NATURAL,
    temperature=FLOAT,
    top_p=FLOAT,
    seed=st.none() | st.integers(),
    stop=st.lists(TEXT, max_size=2).map(tuple),
    grammar=st.none() | TEXT,
    repetition_penalty=st.none() | FLOAT,
    logprobs=st.booleans(),
    choices=st.lists(TEXT, max_size=2).map(tuple),
    max_reasoning_tokens=st.none() | NATURAL,
    forced=st.none() | TEXT,
)
COMPLETION = st.recursive(
    st.builds(
        Completion,
        TEXT,
        st.sampled_from(["stop", "length", "content_filter"]),
        NATURAL,
        NATURAL,
        reasoning=st.none() | TEXT,
        image_sizes=st.lists(st.none() | st.tuples(NATURAL, NATURAL), max_size=2).map(tuple),
        image_tokens=st.lists(st.none() | NATURAL, max_size=2).map(tuple),
        logprobs=st.lists(LOGPROB, max_size=3).map(tuple),
        total_logprob=st.none() | FLOAT,
        choices=st.none() | st.dictionaries(TEXT, FLOAT, max_size=3),
    ),
    lambda other: st.builds(
        Completion, TEXT, st.just("stop"), NATURAL, NATURAL, alternatives=st.lists(other, max_size=2).map(tuple)
    ),
    max_leaves=4,
)
PART = (
    TEXT
    | st.builds(HeldImage, NUMBER)
    | st.builds(HeldVideo, st.lists(NUMBER, max_size=3).map(tuple), st.lists(FLOAT, max_size=3).map(tuple))
)
TURNS = st.lists(st.builds(HeldTurn, TEXT, st.lists(PART, max_size=3).map(tuple)), max_size=2).map(tuple)
SUBMIT = st.builds(
    Submit,
    NUMBER,
    TEXT,
    TURNS,
    PARAMS,
    st.sampled_from(["interactive", "bulk"]),
    FLOAT,
    NATURAL,
    st.dictionaries(TEXT, TEXT, max_size=2),
    st.booleans(),
    TEXT,
    st.booleans(),
)
FAILURE = st.builds(Failure, TEXT, TEXT, st.none() | NATURAL, st.none() | NATURAL)
STALL = st.builds(Stall, st.sampled_from(["load", "prefill", "decode"]), FLOAT, st.lists(TEXT).map(tuple), FLOAT)
TO_CHILD_MESSAGES = (
    SUBMIT
    | st.builds(Start, TEXT, st.dictionaries(TEXT, st.none() | TEXT | NUMBER | st.booleans()), NATURAL, TEXT)
    | st.builds(Hold, NUMBER, NATURAL, NATURAL, TEXT)
    | st.builds(Release, st.lists(NUMBER).map(tuple))
    | st.builds(Cancel, NUMBER)
    | st.just(ForgetLongestPass())
)
TO_PARENT_MESSAGES = (
    st.builds(Answered, NUMBER, COMPLETION)
    | st.builds(Failed, NUMBER, FAILURE)
    | st.builds(Piece, NUMBER, TEXT)
    | st.builds(Ready, TEXT, st.sampled_from([None, Fit(32, 4096, 2**20)]), st.sampled_from([None, QWEN3_VL]))
    | st.builds(NotLoaded, FAILURE)
    | st.builds(Crashed, TEXT, st.lists(TEXT).map(tuple))
    | st.builds(Status, st.none() | STALL, st.builds(Stats, passes=NATURAL, pass_s=FLOAT))
)


@given(message=TO_CHILD_MESSAGES)
@settings(deadline=None)
def test_a_message_to_the_engine_is_read_as_it_was_written(message: ToChild) -> None:
    assert TO_CHILD.decode(TO_CHILD.encode(message)) == message


@given(message=TO_PARENT_MESSAGES)
@settings(deadline=None)
def test_a_message_of_the_engine_is_read_as_it_was_written(message: ToParent) -> None:
    assert TO_PARENT.decode(TO_PARENT.encode(message)) == message


def test_a_logarithm_that_is_no_number_stays_none() -> None:
    logprobs = (TokenLogprob(1, b"\xff", float("nan")),)
    message = TO_PARENT.decode(TO_PARENT.encode(Answered(1, Completion("", "stop", 1, 1, logprobs=logprobs))))
    assert isinstance(message, Answered)
    [read] = message.completion.logprobs
    assert read.logprob != read.logprob
    assert read.text == b"\xff"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"secret",
        b"\xff\xfe",
        b"[]",
        b'{"kind":"secret"}',
        b'{"kind":"piece","number":"secret","text":"a"}',
        b'{"kind":"piece","number":1,"text":"a","secret":1}',
        b'{"kind":"piece","number":1}',
    ],
    ids=["empty", "no-json", "no-text", "list", "kind", "type", "extra", "missing"],
)
def test_what_is_no_message_is_refused_without_showing_it(data: bytes) -> None:
    with pytest.raises(BrokenFrame) as refused:
        TO_PARENT.decode(data)
    assert "secret" not in str(refused.value).replace("piece.secret", "")


@given(data=st.binary(max_size=200) | st.dictionaries(TEXT, TEXT | NUMBER).map(lambda each: json.dumps(each).encode()))
@settings(deadline=None)
def test_any_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BrokenFrame):
        TO_CHILD.decode(data)


def _tree(of: type[VQAError]) -> list[type[VQAError]]:
    return [
        of,
        *(each for below in of.__subclasses__() if below.__module__ == errors.__name__ for each in _tree(below)),
    ]


@pytest.mark.parametrize("kind", _tree(VQAError), ids=lambda kind: kind.__name__)
def test_an_error_arrives_as_it_was_raised(kind: type[VQAError]) -> None:
    error = Failure.from_error(kind("why")).error()
    assert (type(error), str(error), error.retry) == (kind, "why", kind.retry)


def test_a_prompt_that_is_too_long_arrives_with_its_tokens() -> None:
    raised = PromptTooLong("why")
    raised.excess, raised.limit = 7, 4096
    error = Failure.from_error(raised).error()
    assert isinstance(error, PromptTooLong)
    assert (error.excess, error.limit) == (7, 4096)


@pytest.mark.parametrize("error", [ValueError("secret"), KeyError("secret")], ids=["value", "key"])
def test_an_error_outside_the_tree_becomes_an_engine_error_that_names_its_class(error: Any) -> None:
    arrived = Failure.from_error(error).error()
    assert type(arrived) is EngineError
    assert str(arrived) == f"the engine failed on this prompt ({type(error).__name__})"
