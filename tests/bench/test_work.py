"""What the benchmark asks."""

import io
import itertools
import statistics

import pytest
from PIL import Image
from tokenizers import Tokenizer

from bench.engine.catalogue import SYSTEM_PROMPT
from bench.engine.work import ManyQuestions, Products, Size, Stock, poisson
from bench.media.images import photo, renewed
from bench.stage import TINY

SMALL = Size(image=1 / 16)


def test_no_two_questions_show_the_same_bytes_and_a_renewed_image_the_same_pixels() -> None:
    stock = Stock.w1(4, SMALL)
    images = [question.image for _ in range(3) for question in stock.take()]
    assert len(set(images)) == 12
    before = photo(1, 64, 48)
    after = Image.open(io.BytesIO(renewed(before, "again")))
    assert after.tobytes() == Image.open(io.BytesIO(before)).tobytes()
    assert photo(2, 64, 48) != before


def test_w2_has_all_sizes_and_short_answers_more_often_than_long_ones() -> None:
    questions = Stock.w2(400, SMALL).take()
    widths = sorted(Image.open(io.BytesIO(question.image)).width for question in questions)
    assert widths[0] >= 32
    assert widths[-1] <= 250
    # log-uniform from 320 to 4000, a sixteenth
    assert statistics.median(widths) == pytest.approx(1131 / 16, rel=0.15)
    tokens = [question.max_new_tokens for question in questions]
    assert min(tokens) >= 8
    assert max(tokens) == 256
    assert statistics.mean(tokens) == pytest.approx(62, rel=0.15)
    assert statistics.median(tokens) < statistics.mean(tokens)


def test_arrivals_come_at_their_rate_and_irregularly() -> None:
    moments = poisson(4000, rate=20)
    assert moments == sorted(moments)
    assert moments[-1] == pytest.approx(4000 / 20, rel=0.1)
    gaps = [later - sooner for sooner, later in itertools.pairwise(moments)]
    # an exponential distribution's deviation is its mean
    assert statistics.stdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.1)


def test_w3_asks_sixteen_questions_about_each_image_in_either_order() -> None:
    stock = ManyQuestions(3, SMALL)
    in_order, interleaved = stock.take(), stock.take(interleaved=True)
    assert len(in_order) == len(interleaved) == 48
    assert len({question.image for question in in_order[:16]}) == 1
    assert len({question.image for question in interleaved[:3]}) == 3
    for questions in (in_order, interleaved):
        assert len({(question.image, question.text) for question in questions}) == 48
    assert {question.image for question in in_order}.isdisjoint(question.image for question in interleaved)


def test_the_questions_of_w3_have_24_tokens_and_the_system_prompt_of_w4_about_600() -> None:
    tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))

    def tokens(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    assert {tokens(question.text) for question in ManyQuestions(1, SMALL).take()} == {24}
    assert tokens(SYSTEM_PROMPT) == pytest.approx(600, abs=15)


def test_the_products_of_w4_differ_and_share_what_comes_before_them() -> None:
    stock = Products(4, SMALL)
    questions = [*stock.take(), *stock.take()]
    assert len({question.image for question in questions}) == len({question.text for question in questions}) == 8
    assert {question.system for question in questions} == {SYSTEM_PROMPT}
    assert len({question.grammar for question in questions}) == 1
