"""However a text is cut, lost, repeated and mixed up on its way, its reader has the answer's text at the end."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.client.streams import StreamedText, TextPiece
from tests.producer.conftest import answer
from vqa.answer import Answer
from vqa.ledger.text_stream import Portion

#: few letters, so that attempts often begin alike
TEXT = st.text("abé\n", max_size=12)


@dataclass(frozen=True)
class Written:
    """What the workers wrote of a job: the text of each lease, and the portions in the order of reading."""

    texts: dict[tuple[int, int], str]
    portions: list[Portion]
    answer: Answer


@st.composite
def _written(draw: st.DrawFn) -> Written:
    attempt, texts, portions = 1, {}, []
    for taken in range(draw(st.integers(1, 4))):
        # the number of an attempt that does not count is used again
        attempt += draw(st.integers(0, 1))
        text = texts[(attempt, taken)] = draw(TEXT)
        cuts = st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).map(sorted)
        # anything between losing all of it and writing all of it several times
        portions += [Portion(attempt, taken, start, text[start:end]) for start, end in draw(st.lists(cuts, max_size=6))]
    order = draw(st.one_of(st.just(portions), st.permutations(portions)))
    # the cache's answer may be another than what the same attempt would have generated
    final = draw(st.one_of(st.just(text), st.just(text), TEXT))
    return Written(texts, order, answer("a", final).model_copy(update={"attempt": attempt}))


def joined(pieces: list[TextPiece]) -> str:
    last = max((number for number, piece in enumerate(pieces) if piece.restarted), default=0)
    return "".join(piece.text for piece in pieces[last:])


@given(_written())
def test_the_pieces_since_the_last_restart_are_the_answers_text(written: Written) -> None:
    text, newest = StreamedText(), (0, 0)
    pieces: list[TextPiece] = []
    for portion in written.portions:
        newest = max(newest, (portion.attempt, portion.taken))
        before = joined(pieces)
        piece = text.add(portion)
        if piece:
            assert piece.text
            assert piece.attempt == newest[0]
            assert not piece.restarted or before
            pieces.append(piece)
            # never more than what its lease really generated
            assert written.texts[newest].startswith(joined(pieces))
    if last := text.finish(written.answer):
        assert last.text or last.restarted
        pieces.append(last)
    assert joined(pieces) == written.answer.text


@given(TEXT, st.lists(st.integers(0, 12)))
def test_without_losses_each_portion_is_one_piece(whole: str, cuts: list[int]) -> None:
    ends = sorted({*(min(cut, len(whole)) for cut in cuts), len(whole)} - {0})
    portions = [Portion(1, 7, start, whole[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    text = StreamedText()

    pieces = [text.add(portion) for portion in portions]

    assert pieces == [TextPiece(portion.text, 1) for portion in portions]
    assert text.finish(answer("a", whole)) is None


def test_an_earlier_attempt_that_still_writes_is_ignored() -> None:
    text = StreamedText()
    assert text.add(Portion(1, 5, 0, "gr")) == TextPiece("gr", 1)
    assert text.add(Portion(2, 9, 0, "r")) == TextPiece("r", 2, restarted=True)
    assert text.add(Portion(1, 5, 2, "een")) is None
    assert text.add(Portion(2, 9, 1, "ed")) == TextPiece("ed", 2)


def test_after_a_lost_portion_the_rest_comes_with_the_answer() -> None:
    text = StreamedText()
    assert text.add(Portion(1, 5, 0, "a c")) == TextPiece("a c", 1)
    assert text.add(Portion(1, 5, 6, " mat")) is None
    assert text.finish(answer("a", "a cat mat")) == TextPiece("at mat", 1)


@pytest.mark.parametrize("final", ["grey", "green", ""])
def test_an_answer_of_an_attempt_that_was_not_seen_says_that_it_is_another(final: str) -> None:
    text = StreamedText()
    text.add(Portion(1, 5, 0, "gre"))
    last = text.finish(answer("a", final).model_copy(update={"attempt": 2}))
    assert last == TextPiece(final, 2, restarted=True)


def test_where_nothing_was_shown_nothing_restarts() -> None:
    assert StreamedText().finish(answer("a", "red").model_copy(update={"attempt": 3})) == TextPiece("red", 3)
    assert StreamedText().finish(answer("a", "")) is None
