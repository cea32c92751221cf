"""What `vqa rollout` prints: a line for each step, and what each worker runs when it ends."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich import progress as rich
from rich.console import Console

from producer.rollout.cards import Card
from producer.rollout.rollout import Show
from vqa.rollout import Request, Target


@contextmanager
def progress(total: int, request: Request) -> Iterator[Show]:
    """Yield what shows how far each card is: a line for each step, and on a terminal a spinner with the time."""
    phases: dict[str, str] = {}
    columns = (
        rich.SpinnerColumn(),
        rich.TextColumn("{task.description}", markup=False),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
    )
    with rich.Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=total)

        def show(cards: Sequence[Card]) -> None:
            done = sum(card.phase == "ready" for card in cards)
            for card in cards:
                if phases.get(card.name, "waiting") != card.phase:
                    print(_step(card, request, done, total), flush=True)
                phases[card.name] = card.phase
            busy = [f"{card.name} {_SHORT[card.phase]}" for card in cards if card.is_busy]
            bar.update(task, completed=done, description=", ".join(busy) or "waiting for another worker to answer")

        yield show


_SHORT = {"draining": "finishes its jobs", "starting": "starts", "watched": "is watched"}


def _step(card: Card, request: Request, done: int, total: int) -> str:
    target = request.target
    match card.phase:
        case "draining":
            return f"{card.name}: finishing its jobs"
        case "starting" if card.after is not None:
            return f"{card.name}: ended soon after it was ready; starting with {card.before.target} again"
        case "starting":
            return f"{card.name}: starting with {target}"
        case "watched":
            return f"{card.name}: ready with {target} after {card.seconds:.0f} s; watched for {request.watch_s:g} s"
        case "ready":
            return f"{card.name}: keeps {target} after {card.seconds:.0f} s ({done} of {total})"
        case "waiting":
            return f"{card.name}: ended otherwise, with {card.before.target}; it is asked again"


@contextmanager
def state_at_the_end(cards: Sequence[Card], target: Target) -> Iterator[None]:
    """If the block is left by an exception, Ctrl-C among them, say what each card runs."""
    try:
        yield
    except BaseException:
        print("the rollout ends here:", file=sys.stderr)
        for card in cards:
            print(f"  {card.name}: {_state(card, target)}", file=sys.stderr)
        print(_next(cards, target), file=sys.stderr)
        raise


def _next(cards: Sequence[Card], target: Target) -> str:
    goes_on = f"the same command goes on with those that do not have {target}"
    if any(card.failed for card in cards):
        goes_on = f"once the reason is gone, {goes_on}"
    return "; ".join((goes_on, *_way_back(cards, target)))


def _way_back(cards: Sequence[Card], target: Target) -> Iterator[str]:
    """Yield the command that undoes this rollout, if it changed a card's model and all had the same one before."""
    changed = any(card.phase != "waiting" and not card.failed for card in cards)
    before = {card.before.target for card in cards} - {target}
    if changed and len(before) == 1:
        [old] = before
        revision = f" --revision {old.revision}" if old.revision else ""
        yield f"`vqa rollout --model {shlex.quote(old.model)}{revision}` brings back {old}"


def _state(card: Card, target: Target) -> str:
    if card.failed:
        return f"{card.before.target} again"
    if card.phase == "ready":
        return str(target)
    if card.phase == "waiting":
        return f"{card.before.target}, not restarted"
    if card.phase == "watched":
        return f"{target}; if it ends too soon, its supervisor goes back to {card.before.target}"
    if card.after is not None:
        return f"ended soon after it was ready; its supervisor starts {card.before.target} again"
    return f"restarting with {target}; if that fails, its supervisor goes back to {card.before.target}"


def end(cards: Sequence[Card], own: Iterable[Target], named: Iterable[str], target: Target) -> Iterator[str]:
    """Yield the last lines; `own` are the models of the supervisors' environments, `named` those that jobs may name."""
    runs = f"{len(cards)} workers run {target}" if len(cards) > 1 else f"{cards[0].name} runs {target}"
    yield "; ".join((runs, *_way_back(cards, target)))
    if outdated := sorted({str(each) for each in own if each != target}):
        revision = f" and VQA_REVISION={target.revision}" if target.revision else " and no VQA_REVISION"
        yield (
            f"Supervisors (`vqa worker`) that are themselves restarted would start {', '.join(outdated)}: set "
            f"VQA_MODEL={target.model}{revision} in their environment, or --model and --revision of their command"
        )
    for name in named:
        yield f"Jobs that name {name} find no worker any more; VQA_SERVED_NAME keeps a name from one model to the next"
