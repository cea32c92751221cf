"""Keys have the form of GitHub's tokens: a scanner knows them, and a mistyped one is told without Redis."""

import re

from hypothesis import given
from hypothesis import strategies as st

from producer.gateway.access.api_key import digest_of, is_well_formed, new_api_key

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
#: made once, so that the form stays the same
KEY = "vqa_0123456789ABCDEFGHIJKLMNOPQRST4PMbyp"


def test_a_new_key_is_well_formed_and_like_no_other() -> None:
    keys = {new_api_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"vqa_[0-9A-Za-z]{36}", key) and is_well_formed(key) for key in keys)


def test_the_form_of_keys_never_changes() -> None:
    assert is_well_formed(KEY)


@given(place=st.integers(4, 39), character=st.sampled_from(BASE62))
def test_one_wrong_character_is_told(place: int, character: str) -> None:
    mistyped = KEY[:place] + character + KEY[place + 1 :]
    assert is_well_formed(mistyped) == (mistyped == KEY)


@given(place=st.integers(4, 38))
def test_two_swapped_characters_are_told(place: int) -> None:
    swapped = KEY[:place] + KEY[place + 1] + KEY[place] + KEY[place + 2 :]
    assert is_well_formed(swapped) == (swapped == KEY)


@given(text=st.text())
def test_any_other_text_is_no_key(text: str) -> None:
    assert not is_well_formed(text)
    assert not is_well_formed("vqa_" + text)
    assert not is_well_formed(KEY + text) or not text


def test_what_is_stored_is_a_sha_256() -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", digest_of(KEY))
    assert digest_of(KEY) == digest_of(KEY) != digest_of(new_api_key())
