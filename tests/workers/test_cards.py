"""Which worker owns which card."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from vqa.errors import SettingsError
from workers.cards import Cards, card_environment, label, parse_cards, requested_cards
from workers.settings import WorkerSettings


@pytest.fixture
def four_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(NVMLError=OSError, nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: 4)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("four_cards")
@pytest.mark.parametrize(
    ("text", "workers"),
    [
        ("", [(0,), (1,), (2,), (3,)]),
        ("2,0", [(2,), (0,)]),
        ("0+1", [(0, 1)]),
        ("0+1,2+3", [(0, 1), (2, 3)]),
        ("3+1+0,2", [(3, 1, 0), (2,)]),
        ("cpu", [()]),
    ],
)
def test_each_part_is_a_worker_and_a_plus_joins_its_cards(text: str, workers: list[Cards]) -> None:
    assert requested_cards(text) == workers


@pytest.mark.parametrize("text", ["first", "0,", "0+", "+1", "0 1", "0++1", "-1", "cpu+0", "cpu,0", "0.5", "٣"])
def test_what_names_no_cards_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"VQA_CARDS: .*0\+1"):
        parse_cards(text)
    with pytest.raises(SettingsError, match="VQA_CARDS"):
        WorkerSettings(cards=text)


@pytest.mark.parametrize("text", ["1,1", "1+1", "0+1,1+2", "1,0+1"])
def test_a_card_has_one_owner(text: str) -> None:
    with pytest.raises(SettingsError, match="VQA_CARDS: card 1 is named twice"):
        parse_cards(text)


@pytest.mark.usefixtures("four_cards")
@pytest.mark.parametrize("text", ["7", "0+7", "0,1+7"])
def test_a_card_that_is_not_there_is_named(text: str) -> None:
    with pytest.raises(SettingsError, match=r"no card 7: this machine has \[0, 1, 2, 3\]"):
        requested_cards(text)


@pytest.mark.usefixtures("four_cards")
def test_a_worker_that_is_pinned_finds_its_own_cards_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for cards in requested_cards("2+3,1"):
        for name, value in card_environment(cards).items():
            monkeypatch.setenv(name, value)
        assert requested_cards(WorkerSettings().cards) == [cards]
        assert requested_cards("") == [(card,) for card in cards]


def test_cards_are_written_as_they_are_read() -> None:
    assert [label(cards) for cards in ((0,), (0, 1), ())] == ["0", "0+1", "cpu"]
