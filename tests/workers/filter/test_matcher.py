"""What the filter finds, however it is written, and what it leaves alone."""

# ruff: noqa: RUF001

import sys
import time
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.workers.filter.making import words
from vqa.errors import SettingsError
from workers.filter.folding import MASK, Folds, split_units
from workers.filter.matcher import Matcher
from workers.filter.word_list import WordList

LATIN = words(["bad", "*hit*", "pre*", "*post", "new york", "a$$", "naïve", "straße", "o'clock", "x-ray", "co", "🍆"])
OTHERS = words(["坏词", "很长的坏词", "卡拉ok", "カ", "ガス", "각", "бёдра", "λόγος", "कि", "น้ำ"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a bad day", "a ███ day", id="word"),
        pytest.param("BaD", "███", id="case"),
        pytest.param("ＢＡＤ", "███", id="width"),
        pytest.param("𝐛𝒂𝕕", "███", id="mathematical-letters"),
        pytest.param("b\u200ba\u2060\u00add", "██████", id="invisible-characters"),
        pytest.param("b\u202ea\u202cd", "█████", id="directions"),
        pytest.param("b\u0301a\u0336d", "█████", id="accents"),
        pytest.param("báď", "███", id="composed-accents"),
        pytest.param("b a d", "█ █ █", id="spaces"),
        pytest.param("b - a - d", "█ - █ - █", id="three-separators"),
        pytest.param("b    a    d", "b    a    d", id="four-separators"),
        pytest.param("b*ad, ba-d", "█*██, ██-█", id="punctuation-inside"),
        pytest.param("b ad", "b ad", id="space-inside-of-two-words"),
        pytest.param("the ba. Doll", "the ba. Doll", id="across-sentences"),
        pytest.param("badge, abad", "badge, abad", id="part-of-a-word"),
        pytest.param("b\u200badge", "b\u200badge", id="part-of-a-word-with-invisible-characters"),
        pytest.param("bad\u0301ly", "bad\u0301ly", id="accent-before-more-of-the-word"),
        pytest.param("_bad_ (bad) 坏bad坏", "_███_ (███) 坏███坏", id="at-other-characters"),
        pytest.param("shitty", "s███ty", id="substring"),
        pytest.param("press, impress", "███ss, impress", id="beginning"),
        pytest.param("outpost, posted", "out████, posted", id="end"),
        pytest.param("New  York, NEW-YORK, newyork", "███  ████, ███-████, ███████", id="two-words"),
        pytest.param("a$$", "███", id="currency"),
        pytest.param("naive NAI\u0308VE", "█████ ██████", id="accents-in-the-entry"),
        pytest.param("STRASSE", "███████", id="sharp-s"),
        pytest.param("three oclock o'clock", "three ██████ █'█████", id="apostrophe"),
        pytest.param("c,o c o c-o co.", "c,o c o c-o ██.", id="two-letters-apart"),
        pytest.param("an 🍆", "an █", id="emoji"),
        pytest.param("", "", id="empty"),
    ],
)
def test_latin_words_are_masked_exactly(text: str, expected: str) -> None:
    assert LATIN.apply(text).text == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("这是坏词吗", "这是██吗", id="han"),
        pytest.param("坏 词 坏*词 坏·词", "█ █ █*█ █·█", id="han-apart"),
        pytest.param("学坏，词汇", "学坏，词汇", id="across-a-comma"),
        pytest.param("很，长，的，坏，词", "█，█，█，█，█", id="all-apart-by-commas"),
        pytest.param("很长的坏词", "█████", id="longer-and-shorter"),
        pytest.param("唱卡拉OK吧, 卡拉okay", "唱████吧, 卡拉okay", id="han-and-latin"),
        pytest.param("カ ガ ｶ ｶﾞ カ\u3099", "█ ガ █ ｶﾞ カ\u3099", id="kana-and-its-voiced-form"),
        pytest.param("ｶﾞｽ カ\u3099ス", "███ ███", id="kana-in-parts"),
        pytest.param("각 가 각하", "█ 가 █하", id="hangul-syllable"),
        pytest.param(unicodedata.normalize("NFD", "각 가"), "███ " + unicodedata.normalize("NFD", "가"), id="jamo"),
        pytest.param("БЁДРА бедра", "█████ █████", id="cyrillic"),
        pytest.param("ΛΌΓΟΣ λογος", "█████ █████", id="greek"),
        pytest.param("कि का", "██ का", id="devanagari-vowel"),
        pytest.param("ดื่มน้ำ", "ดื่ม███", id="thai"),
    ],
)
def test_words_of_other_scripts_are_masked_exactly(text: str, expected: str) -> None:
    assert OTHERS.apply(text).text == expected


def test_traditional_characters_match_only_where_the_list_says_so() -> None:
    filter = words(["台湾发", "裡面"], simplify=True, others=["后来", "頭髮"])
    assert filter.apply("臺灣髮 台湾发 里面").text == "███ ███ ██"
    assert filter.apply("後來 后来 头发 頭髮").text == "後來 ██ 头发 ██"
    assert words(["台湾"]).apply("臺灣").text == "臺灣"


def test_entries_inside_of_others_are_all_reported() -> None:
    filter = words({"坏词": "a", "很坏词": "b", "坏": "c", "词汇": "d", "无": "e"}, a="flag", b="flag", c="flag")
    filtered = filter.apply("很坏词汇")
    assert filtered.categories == ("a", "b", "c", "d")
    assert filtered.text == "很坏██"


def test_one_word_may_be_of_several_categories() -> None:
    plain = Folds()
    listed = WordList(False, ((1, "bad", "a"), (2, "BAD", "b"), (3, "bad", "a")), "list")
    matcher = Matcher(listed.entries(plain, plain), plain, plain)
    assert [match.category for match in matcher.find("Bad")] == ["a", "b"]
    assert matcher.size == 2


def test_the_action_of_each_category_is_done() -> None:
    filter = words({"one": "a", "two": "b", "three": "c", "four": "d"}, a="flag", b="refuse", default="mask")
    filtered = filter.apply("four one two three two")
    assert filtered.text == "████ one two █████ two"
    assert (filtered.categories, filtered.refused_at) == (("a", "b", "c", "d"), 9)
    assert filter.apply("nothing").categories == ()


def test_each_character_folds_to_the_same_in_every_form() -> None:
    folds = Folds()

    def fold(text: str) -> str:
        return "".join(folds[unit] for unit in split_units(text))

    # the dotless i alone has a capital that is another letter's
    different = {
        character
        for character in map(
            chr, [*range(0x3400), *range(0xA000, 0xAC80), *range(0xF900, 0x10000), *range(0x1D400, 0x1F200)]
        )
        for form in (
            character.upper(),
            character.lower(),
            character.casefold(),
            *(unicodedata.normalize(name, character) for name in ("NFC", "NFD", "NFKC", "NFKD")),
            fold(character),
        )
        if fold(form) != fold(character)
    }
    assert different == {"ı"}


def test_words_of_a_long_text_with_a_letter_in_parts_are_found_in_linear_time() -> None:
    text = "bad " * 10_000 + "カ\u3099"
    started = time.process_time()
    masked = LATIN.apply(text).text
    # with a sum over the text for each word it takes ten times as long
    assert time.process_time() - started < 3
    assert masked == "███ " * 10_000 + "カ\u3099"


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ahocorasick_rs", None)
    with pytest.raises(SettingsError, match=r"vqa-queue\[filter\]"):
        words(["bad"])


ENTRIES = ["bad", "worse", "*hit*", "坏词", "非常糟糕", "カガ", "new york", "a$$", "x", "강"]
FILTER = words(ENTRIES)


@st.composite
def disguised(draw: Any) -> str:
    """Write an entry in another case, width, form, or with something between its letters."""
    entry = draw(st.sampled_from(ENTRIES)).strip("*")
    letters = [draw(st.sampled_from([each, each.upper(), _wide(each)])) for each in entry if each != " "]
    apart = draw(st.sampled_from(["", " ", ".", " - ", "\u200b", "\u200b \u2060", "\u0301", "*", "\u202e"]))
    text = apart.join(letters) if len(letters) > 2 or apart in ("", "\u200b", "\u0301", "\u202e") else "".join(letters)
    return unicodedata.normalize(draw(st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"])), text)


def _wide(letter: str) -> str:
    return chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter


ANY = st.text(st.sampled_from("abdehiortwsxkny坏词非常カガ강 .,-*'\n\u200b\u0301\u3099한█ABﬁ"), max_size=12)


@settings(max_examples=400, deadline=None)
@given(ANY, disguised(), ANY)
@example("", "b\u0301.a.d", "")
@example("foo", "hit", "bad")
def test_no_entry_is_left_in_any_form(before: str, word: str, after: str) -> None:
    text = f"{before} {word} {after}"
    filtered = FILTER.apply(text).text
    assert FILTER.matcher.find(filtered) == []
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert FILTER.matcher.find(unicodedata.normalize(form, filtered).upper()) == []
    assert len(filtered) == len(text)
    assert all(new in (old, MASK) for old, new in zip(text, filtered, strict=True))


@settings(max_examples=200, deadline=None)
@given(disguised())
def test_a_disguised_entry_is_masked(word: str) -> None:
    assert MASK in FILTER.apply(f"- {word} -").text
