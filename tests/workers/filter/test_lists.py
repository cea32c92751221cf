"""Files of words: what is wrong with them is named, and a change is read without a restart."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from tests.worker_process import ROOT
from vqa.errors import SettingsError
from workers.filter.lists import LOOK_S, Lists
from workers.filter.settings import Actions, FilterSettings


def lists(*paths: Path, actions: str = "default=mask", **options: Any) -> Lists:
    return Lists(FilterSettings(filter_lists=",".join(map(str, paths)), filter_actions=actions), **options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("bad\nworse\tb\n", encoding="utf-8")
    return path


def test_several_files_are_one_filter(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_bytes("\ufeff# words\r\n\r\n坏词\tb \r\n  two words  \r\n".encode())
    words = lists(path, other, actions="b=flag").current()
    filtered = words.apply("bad, worse, 坏词, two words")
    assert filtered.text == "███, worse, 坏词, ███ █████"
    assert filtered.categories == ("b", "default")


def test_a_list_says_whether_traditional_characters_are_compared_as_simplified(path: Path) -> None:
    path.write_text("台湾\n", encoding="utf-8")
    assert lists(path).current().apply("臺灣").text == "臺灣"
    path.write_text("#! simplify\n台湾\n", encoding="utf-8")
    assert lists(path).current().apply("臺灣").text == "██"


def test_the_sample_list_is_valid() -> None:
    found = lists(ROOT / "examples" / "filter" / "words.txt", actions="violence=refuse").current()
    assert found.matcher.size == 20
    filtered = found.apply("Example-Insult 示例內部项目 examplecurses")
    assert filtered.text == "███████-██████ ██████ ████████████s"


@pytest.mark.parametrize(
    ("content", "place", "why"),
    [
        pytest.param(b"good\n\xff\n", ":2", "not UTF-8", id="encoding"),
        pytest.param(b"secret\ttwo words\n", ":1", "category", id="category"),
        pytest.param(b"#! simple\n", ":1", "#! simplify", id="directive"),
        pytest.param(b"# c\n\nc++\n", ":3", "single character", id="punctuation-counts"),
        pytest.param(b"---\n", ":1", "no letter", id="no-letter"),
        pytest.param(b"*\n", ":1", "no letter", id="star"),
        pytest.param("a█\n".encode(), ":1", "masks", id="mask"),
        pytest.param(b"secret" * 40, ":1", "at most 200", id="too-long"),
    ],
)
def test_what_is_wrong_is_named_by_line_and_not_by_text(path: Path, content: bytes, place: str, why: str) -> None:
    path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        lists(path)
    assert f"VQA_FILTER_LISTS: {path}{place}: " in str(caught.value)
    assert why in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"VQA_FILTER_LISTS: .*none.txt cannot be read: No such file"):
        lists(tmp_path / "none.txt")


def test_an_empty_file_is_an_error_and_a_file_of_comments_is_not(path: Path) -> None:
    path.write_text("# none yet\n", encoding="utf-8")
    assert lists(path).current().matcher.size == 0
    path.write_bytes(b"")
    with pytest.raises(SettingsError, match=r"VQA_FILTER_LISTS: .*words\.txt is empty"):
        lists(path)


@pytest.mark.parametrize("names", [",", " , "], ids=["comma", "spaces"])
def test_lists_that_name_no_file_are_an_error(names: str) -> None:
    with pytest.raises(SettingsError, match="VQA_FILTER_LISTS: names no file"):
        FilterSettings(filter_lists=names)


def test_an_action_for_a_category_that_no_list_has_is_an_error(path: Path) -> None:
    with pytest.raises(SettingsError, match="VQA_FILTER_ACTIONS: no list has the category violense"):
        lists(path, actions="default=flag,violense=refuse")


@pytest.mark.parametrize(
    "actions",
    [
        pytest.param("mask", id="no-category"),
        pytest.param("a=hide", id="unknown-action"),
        pytest.param("a=mask,a=flag", id="twice"),
        pytest.param("a b=mask", id="category"),
    ],
)
def test_actions_that_cannot_be_read_name_the_variable(actions: str) -> None:
    with pytest.raises(SettingsError, match="VQA_FILTER_ACTIONS: "):
        FilterSettings(filter_actions=actions)


def test_actions_have_a_default() -> None:
    assert Actions.parse("").of("a") == "mask"
    parsed = Actions.parse("default=flag, a=refuse,")
    assert (parsed.of("a"), parsed.of("b"), parsed.of("default")) == ("refuse", "flag", "flag")


def test_questions_without_lists_are_an_error() -> None:
    with pytest.raises(SettingsError, match="VQA_FILTER_QUESTIONS: VQA_FILTER_LISTS"):
        FilterSettings(filter_questions=True)


def replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def test_a_changed_list_is_read_again_once_a_second_and_a_broken_one_is_not_used(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    now = [0.0]
    found = lists(path, clock=lambda: now[0])
    first = found.current()

    replace(path, "good\n")
    assert found.current() is first
    now[0] += LOOK_S
    second = found.current()
    assert second.apply("bad good").text == "bad ████"

    caplog.clear()
    replace(path, "secretword\n+++\n")
    for _ in range(3):
        now[0] += LOOK_S
        assert found.current() is second
    [line] = caplog.messages
    assert f"the former ones stay: VQA_FILTER_LISTS: {path}:2: " in line
    assert "secretword" not in line

    path.unlink()
    now[0] += LOOK_S
    assert found.current() is second
    replace(path, "fine\n")
    now[0] += LOOK_S
    assert found.current().apply("bad fine").text == "bad ████"
