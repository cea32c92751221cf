"""Which cards a rollout restarts, and what the list of workers says of a card that does."""

from __future__ import annotations

import time
from typing import Any

import pytest

from producer.rollout.cards import Card, choose
from vqa.errors import NotReady
from vqa.ledger.records import WorkerInfo
from vqa.rollout import PROCESS, ProcessInfo, Request, Target

OLD, NEW, OTHER = Target(model="org/old"), Target(model="org/new", revision="v2"), Target(model="org/other")
REQUEST = Request(id="a" * 32, target=NEW)


EARLIER = WorkerInfo("card1", 1, {"slots": 4})


def entry(name: str, target: Target, seen_s: float = 0, **fields: Any) -> WorkerInfo:
    process = ProcessInfo(**{"started": 1.0, "target": target} | fields)
    return WorkerInfo(name, round(seen_s * 1000), {"slots": 4, PROCESS: process.model_dump()})


def fleet(*targets: Target) -> list[WorkerInfo]:
    return [entry(f"card{number}", target) for number, target in enumerate(targets)]


@pytest.mark.parametrize(
    ("targets", "only", "replaces", "chosen", "others"),
    [
        ([OLD, OLD], [], None, ["card0", "card1"], []),
        ([NEW, OLD, OLD], [], None, ["card1", "card2"], ["card0"]),
        ([NEW, NEW], [], None, ["card0", "card1"], []),
        ([OLD, OTHER, NEW], [], "org/old", ["card0"], ["card2"]),
        ([NEW, OTHER], [], "org/new", [], []),
        ([OLD, OLD, OTHER], ["card1"], None, ["card1"], ["card0"]),
        ([NEW, OLD], ["card0"], None, ["card0"], []),
    ],
    ids=["all", "the-rest", "again", "from", "from-itself", "one-worker", "one-that-has-it"],
)
def test_cards_that_have_the_model_are_left_out_unless_all_have_it(
    targets: list[Target], only: list[str], replaces: str | None, chosen: list[str], others: list[str]
) -> None:
    if not chosen:
        with pytest.raises(
            ValueError, match=r"no worker to restart runs org/new; they run org/new@v2 .1., org/other .1."
        ):
            choose(fleet(*targets), NEW, only, replaces)
        return
    cards, staying = choose(fleet(*targets), NEW, only, replaces)
    assert [card.name for card in cards] == chosen
    assert staying == others


@pytest.mark.parametrize(
    ("listed", "only", "error", "named"),
    [
        ([], [], NotReady, "no worker is up"),
        (fleet(OLD, OTHER), [], ValueError, r"workers run org/old .1., org/other .1.: name the one to replace by"),
        (fleet(OLD), ["card7"], ValueError, "no worker named card7 is up"),
        ([*fleet(OLD), EARLIER], [], NotReady, "card1: of a release without this command"),
        ([*fleet(OLD), EARLIER], ["card0", "card1"], NotReady, "card1: of a release without this command"),
    ],
    ids=["none", "two-models", "unknown", "old-release", "chosen-old-release"],
)
def test_what_cannot_be_chosen_says_what_to_do(
    listed: list[WorkerInfo], only: list[str], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        choose(listed, NEW, only, None)


def test_a_worker_of_an_earlier_release_does_not_keep_others_that_are_named_from_restarting() -> None:
    cards, others = choose([*fleet(OLD, OLD), WorkerInfo("card2", 1, {"slots": 4})], NEW, ["card0"], None)
    # it may answer other jobs, so it is not counted on
    assert ([card.name for card in cards], others) == (["card0"], ["card1"])


def asked() -> Card:
    card = Card("card0", ProcessInfo(started=1.0, target=OLD), limit_s=60)
    card.ask()
    return card


def test_a_card_is_ready_once_its_new_process_is_listed() -> None:
    card = asked()
    card.look(entry("card0", OLD, started=1.0), REQUEST)
    assert card.phase == "draining"
    card.look(None, REQUEST)
    assert card.phase == "starting"
    card.look(entry("card0", NEW, started=2.0, rollout=REQUEST.id), REQUEST)
    assert card.phase == "ready"


WATCHED = REQUEST.model_copy(update={"watch_s": 30.0})


def watched() -> Card:
    card = asked()
    card.look(None, WATCHED)
    card.look(entry("card0", NEW, seen_s=100, started=2.0, rollout=REQUEST.id), WATCHED)
    assert (card.phase, card.restarts, card.is_busy) == ("watched", False, True)
    return card


def test_a_card_is_watched_until_its_worker_has_renewed_its_entry_for_so_long() -> None:
    card = watched()
    for seen_s, phase in ((100, "watched"), (129, "watched"), (130, "ready")):
        card.look(entry("card0", NEW, seen_s=seen_s, started=2.0, rollout=REQUEST.id), WATCHED)
        assert card.phase == phase
    assert not card.is_busy


def test_a_card_that_ends_while_it_is_watched_is_waited_for_until_it_has_the_model_before() -> None:
    card = watched()
    card.look(None, WATCHED)
    assert card.phase == "starting"
    with pytest.raises(NotReady, match="could not run org/new@v2 and runs org/old again: exited, 3 s after"):
        card.look(entry("card0", OLD, started=3.0, rollout=REQUEST.id, failed="exited, 3 s after"), WATCHED)
    assert card.failed


def test_a_watched_card_that_is_not_listed_for_a_moment_is_watched_on() -> None:
    card = watched()
    card.look(None, WATCHED)
    card.look(entry("card0", NEW, seen_s=109, started=2.0, rollout=REQUEST.id), WATCHED)
    assert card.phase == "watched"


def test_a_card_that_ended_before_its_supervisor_heard_of_it_is_asked_again_three_times_at_most() -> None:
    card = asked()
    for started in (2.0, 3.0):
        card.look(entry("card0", OLD, started=started), REQUEST)
        assert card.phase == "waiting"
        card.ask()
    card.look(entry("card0", OLD, started=4.0), REQUEST)
    with pytest.raises(NotReady, match="card0 was asked 3 times"):
        card.ask()


def test_a_card_that_restarts_while_it_waits_is_known_by_its_new_process() -> None:
    card = Card("card0", ProcessInfo(started=1.0, target=OLD), limit_s=60)
    card.look(entry("card0", OLD, started=2.0), REQUEST)
    card.ask()
    card.look(entry("card0", OLD, started=2.0), REQUEST)
    assert card.phase == "draining"


@pytest.mark.parametrize(
    ("found", "named"),
    [
        (None, "card0 was ready and is gone"),
        (
            entry("card0", NEW, started=3.0, rollout=REQUEST.id),
            "was ready with org/new@v2, ended, and was started with it again",
        ),
        (entry("card0", OLD, started=3.0), "was ready with org/new@v2 and now runs org/old"),
        (
            entry("card0", OLD, started=3.0, rollout=REQUEST.id, failed="out of memory"),
            "could not run org/new@v2 and runs org/old again: out of memory",
        ),
    ],
    ids=["gone", "restarted", "another", "back"],
)
def test_a_card_that_does_not_stay_ready_ends_the_rollout(found: WorkerInfo | None, named: str) -> None:
    card = asked()
    card.look(entry("card0", NEW, started=2.0, rollout=REQUEST.id), REQUEST)
    with pytest.raises(NotReady, match=named):
        card.look(found, REQUEST)


def test_a_card_that_takes_too_long_ends_the_rollout() -> None:
    card = asked()
    card.asked_at = time.monotonic() - 61
    with pytest.raises(NotReady, match="card0 is not ready 60 s after it was asked"):
        card.look(None, REQUEST)
