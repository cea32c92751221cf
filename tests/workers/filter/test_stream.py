"""Text that comes in pieces: what is shown begins the filtered text, and nothing of a word gets out."""

from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.filter.making import words
from workers.filter.stream import MOST_HELD, StreamFilter

ENTRIES = {"bad": "a", "worst of all": "b", "*hit*": "a", "坏词": "a", "very bad": "c", "カガ": "a", "stop": "r"}
FILTER = words(ENTRIES, c="flag", r="refuse")

PARTS = st.lists(
    st.one_of(
        st.sampled_from(
            ["bad", "b a d", "ba", "d", "worst", " of ", "all", "hit", "坏", "词", "very ", "st", "op", "x"]
        ),
        st.sampled_from(["B", "A", "D", "カ", "\u3099", "ガ", "한", "\u1112", "\u1161", "\u11ab", "█", "ﬁ", ""]),
        st.sampled_from([" ", "    ", ".", "-", "\n", "\u200b", "\u0301"]),
    ),
    max_size=24,
)


@settings(max_examples=500, deadline=None)
@given(PARTS, st.data())
def test_what_is_shown_begins_the_filtered_text_for_any_pieces(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=30)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    stream, whole = StreamFilter(FILTER), FILTER.apply(text)
    shown = [stream.push(piece) for piece in pieces]
    end = whole.text if whole.refused_at is None else whole.text[: whole.refused_at]
    assert end.startswith("".join(shown))
    # no more is held back than an entry and what may be inside of it
    longest = FILTER.matcher.longest
    if not stream.ended and whole.refused_at is None and not whole.categories and "\u200b" not in text:
        held = text[len("".join(shown)) :]
        assert sum(each.isalnum() for each in held) <= longest + 1
    for so_far in accumulate(shown):
        assert end.startswith(so_far)


@settings(max_examples=300, deadline=None)
@given(PARTS)
def test_character_by_character_all_comes_but_the_end(parts: list[str]) -> None:
    text = "".join(parts)
    stream, whole = StreamFilter(FILTER), FILTER.apply(text + "    ")
    shown = "".join(map(stream.push, [*text, "    "]))
    if whole.refused_at is None:
        # four spaces end every entry
        assert shown.rstrip(" ") == whole.text.rstrip(" ")
    else:
        assert shown == whole.text[: whole.refused_at]


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        pytest.param(["a ba", "d day for all of us"], ["", "a ███ day "], id="word-in-two-pieces"),
        pytest.param(["please st", "op, and go on for long", "and on"], ["", "please ", ""], id="refused"),
        pytest.param(["yes    "], ["yes    "], id="many-spaces"),
        pytest.param(["1234567890abc"], ["123"], id="as-many-as-the-longest-entry"),
        pytest.param(["ba" + "\u200b" * MOST_HELD, "d   ", " go on for long"], ["", "", ""], id="too-many-invisible"),
    ],
)
def test_pieces_are_held_back(pieces: list[str], shown: list[str]) -> None:
    stream = StreamFilter(FILTER)
    assert [stream.push(piece) for piece in pieces] == shown


def test_a_middle_dot_is_no_part_of_the_sound_mark_after_it() -> None:
    filter = words(["*・\u309ad*"])
    stream, pieces = StreamFilter(filter), ("    ・\u309a", "d    ")
    shown = "".join(map(stream.push, pieces))
    assert shown == filter.apply("".join(pieces)).text == "    ・██    "
