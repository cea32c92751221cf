"""What `vqa rollout` says at its end, the way back among it."""

from __future__ import annotations

import time

import pytest

from producer.cli.show_rollout import end, progress, state_at_the_end
from producer.rollout.cards import Card, Phase
from vqa.errors import NotReady
from vqa.rollout import ProcessInfo, Request, Target

OLD, NEW, OTHER = Target(model="org/old", revision="v1"), Target(model="org/new"), Target(model="/models/my own")


NEW_PROCESS = ProcessInfo(started=2.0, target=NEW)


def card(
    number: int, phase: Phase, before: Target = OLD, failed: bool = False, after: ProcessInfo | None = None
) -> Card:
    return Card(f"card{number}", ProcessInfo(started=1.0, target=before), phase, failed=failed, after=after)


@pytest.mark.parametrize(
    ("shown", "step", "state"),
    [
        (card(0, "starting"), "starting with org/new", "restarting with org/new; if that fails"),
        (card(0, "watched", after=NEW_PROCESS), "watched for 30 s", "org/new; if it ends too soon"),
        (card(0, "ready", after=NEW_PROCESS), "keeps org/new after 0 s (1 of 1)", "org/new"),
        (
            card(0, "starting", after=NEW_PROCESS),
            "ended soon after it was ready; starting with org/old@v1 again",
            "ended soon after it was ready; its supervisor starts org/old@v1 again",
        ),
    ],
    ids=["starts", "watched", "kept", "ends"],
)
def test_it_says_how_far_a_card_is(shown: Card, step: str, state: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown.asked_at = time.monotonic()
    request = Request(id="a" * 32, target=NEW, watch_s=30)
    with progress(1, request) as show:
        show([shown])
    with pytest.raises(NotReady), state_at_the_end([shown], NEW):
        raise NotReady("another card is gone")
    said = capsys.readouterr()
    assert step in said.out
    assert f"card0: {state}" in said.err


@pytest.mark.parametrize(
    ("befores", "back"),
    [
        ([OLD, OLD], "; `vqa rollout --model org/old --revision v1` brings back org/old@v1"),
        ([OTHER], "; `vqa rollout --model '/models/my own'` brings back /models/my own"),
        ([OLD, NEW], "; `vqa rollout --model org/old --revision v1` brings back org/old@v1"),
        # nothing to bring back, and nothing that one command could
        ([NEW], ""),
        ([OLD, OTHER], ""),
    ],
    ids=["one-model", "folder", "some-had-it", "same-model", "two-models"],
)
def test_it_says_what_goes_back_at_its_end(befores: list[Target], back: str) -> None:
    cards = [card(number, "ready", before) for number, before in enumerate(befores)]
    line, *_ = end(cards, [NEW], [], NEW)
    assert line == ("card0 runs org/new" if len(cards) == 1 else f"{len(cards)} workers run org/new") + back


@pytest.mark.parametrize(
    ("cards", "said"),
    [
        (
            [card(0, "ready"), card(1, "waiting")],
            "the same command goes on with those that do not have org/new; "
            "`vqa rollout --model org/old --revision v1` brings back org/old@v1",
        ),
        ([card(0, "waiting"), card(1, "waiting")], "the same command goes on with those that do not have org/new"),
        (
            [card(0, "starting", failed=True), card(1, "waiting")],
            "once the reason is gone, the same command goes on with those that do not have org/new",
        ),
        (
            [card(0, "ready"), card(1, "starting", failed=True)],
            "once the reason is gone, the same command goes on with those that do not have org/new; "
            "`vqa rollout --model org/old --revision v1` brings back org/old@v1",
        ),
    ],
    ids=["some-changed", "none-changed", "none-could", "one-could-not"],
)
def test_it_says_how_to_go_on_and_back_where_it_ends_early(
    cards: list[Card], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NotReady), state_at_the_end(cards, NEW):
        raise NotReady("a card is gone")
    assert capsys.readouterr().err.splitlines()[-1] == said
