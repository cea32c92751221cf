"""The engine's loop: asks the scheduler what to compute, has it computed, and gives the tokens to their prompts.

What is computed and what comes of the computation before it overlap: the card gets its next work before the tokens of
the last are read. So a prompt that ends by what it says (not by its length) is computed for one step more, for nobody.
What a step's tokens are chosen by knows those before: guides think while the card computes.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from vqa.errors import EngineError, PromptTooLong
from workers.engine.base import Phase
from workers.engine.continuous.model_runner import Runner
from workers.engine.continuous.prefill import Piece
from workers.engine.continuous.requests import Arrival, Intake, Request
from workers.engine.continuous.sampler import Choice
from workers.engine.continuous.scheduler import PrefillWork, Scheduler, StepWork
from workers.engine.continuous.sequence import Stay
from workers.engine.continuous.slot_table import Entry
from workers.engine.continuous.stats import Counter
from workers.engine.continuous.transfer import Tokens
from workers.engine.runtime.faults import context_is_lost, is_poisoned
from workers.engine.runtime.heartbeat import Heartbeat
from workers.engine.text.generation import Generation

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Guest:
    """A prompt in the engine: what is decided about it, computed for it and made of it."""

    stay: Stay
    #: its pixels with it; None once all of it is in the cache
    request: Request | None
    row: Generation


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """What has been launched; its tokens will be there, one for each of these."""

    work: PrefillWork | StepWork
    stays: Sequence[Stay]
    tokens: Tokens


class Loop:
    """Belongs to the engine's thread."""

    def __init__(self, scheduler: Scheduler, runner: Runner, tokenizer: Any, eos_ids: Collection[int]) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._tokenizer = tokenizer
        self._eos_ids = eos_ids
        self._guests: dict[Stay, Guest] = {}
        self.counter = Counter()

    def serve(self, intake: Intake, heartbeat: Heartbeat) -> None:
        """Answer what arrives until `intake` is closed. What escapes is the end of this engine."""
        unread: list[Made] = []
        while (arrived := intake.take(wait=not self._guests)) is not None:
            for arrival in arrived:
                self._welcome(arrival)
            self._see_off()
            unread = self._go_on(self._scheduler.next(), unread, heartbeat)
            if not self._guests:
                heartbeat.idle()

    def _welcome(self, arrival: Arrival) -> None:
        pending, request = arrival.pending, arrival.request
        prompt = pending.prompt
        stay = Stay(request.count, prompt.params.max_new_tokens, prompt.lane, prompt.alone)
        if not self._scheduler.fits(stay):
            pending.fail(PromptTooLong(f"{stay.all_tokens} tokens are more than the card has room for"))
            return
        if not self._guests:
            self.counter.begin()
        row = Generation(pending, request.count, self._tokenizer, self._eos_ids, request.guide)
        self._guests[stay] = Guest(stay, request, row)
        self._scheduler.add(stay)

    def _see_off(self) -> None:
        """Those who have ended, by a token, a deadline or a cancellation."""
        for stay in [stay for stay, guest in self._guests.items() if guest.row.pending.settled]:
            self._scheduler.leave(stay)
            del self._guests[stay]

    def _go_on(self, work: PrefillWork | StepWork | None, unread: Sequence[Made], heartbeat: Heartbeat) -> list[Made]:
        """Launch this, read what was made before, then choose tokens of this: guides have to know those before."""
        if work is None:
            self._read(unread, heartbeat)
            return []
        heartbeat.beat(_phase(work), tuple(self._guests[stay].row.pending.prompt.id for stay in self._scheduler.seated))
        match work:
            case StepWork(stays):
                logits = self._runner.step([_slot(stay) for stay in stays])
                self._read(unread, heartbeat)
                heartbeat.beat(_phase(work), heartbeat.ids)
                return [Made(work, stays, self._runner.choose(logits, self._choice(stays)))]
            case PrefillWork():
                made = self._prefill(work)
                self._read(unread, heartbeat)
                return made

    def _prefill(self, work: PrefillWork) -> list[Made]:
        try:
            return [self._prefill_together(work)]
        except Exception as error:
            if is_poisoned(error) or context_is_lost():
                raise
            # not louder: the error's words may hold a user's
            log.debug("prefill failed", exc_info=True)
            reason = type(error).__name__
        if len(work.parts) == 1:
            pending = self._guests[work.parts[0].stay].row.pending
            pending.fail(EngineError(f"the engine failed on this prompt ({reason})"))
            return []
        log.warning("a prefill of %d prompts failed (%s): run again one by one", len(work.parts), reason)
        return [made for part in work.parts for made in self._prefill(PrefillWork((part,)))]

    def _prefill_together(self, work: PrefillWork) -> Made:
        self._runner.enter([self._entry(part.stay) for part in work.parts if part.start == 0])
        pieces = [
            Piece(self._request(part.stay), _slot(part.stay), part.stay.pages, part.start, part.stop)
            for part in work.parts
        ]
        done = [part.stay for part, piece in zip(work.parts, pieces, strict=True) if piece.is_last]
        made = Made(work, done, self._runner.choose(self._runner.prefill(pieces), self._choice(done)))
        for stay in done:
            self._guests[stay].request = None
        return made

    def _request(self, stay: Stay) -> Request:
        request = self._guests[stay].request
        assert request is not None
        return request

    def _entry(self, stay: Stay) -> Entry:
        guest = self._guests[stay]
        prompt = guest.row.pending.prompt
        seed = prompt.params.seed if prompt.params.seed is not None else random.getrandbits(63)
        # a greedy row's temperature is never used
        temperature = prompt.params.temperature or 1.0
        return Entry(_slot(stay), stay.pages, self._request(stay).shift, temperature, prompt.params.top_p, seed)

    def _choice(self, stays: Sequence[Stay]) -> Choice:
        """Whose token is not just the likeliest."""
        rows = [self._guests[stay].row for stay in stays]
        drawn = [n for n, row in enumerate(rows) if row.pending.prompt.params.temperature > 0]
        return Choice(drawn, {n: row.guide for n, row in enumerate(rows) if row.guide and not row.pending.settled})

    def _read(self, unread: Sequence[Made], heartbeat: Heartbeat) -> None:
        for made in unread:
            # it waits for the card, which may hang in it
            heartbeat.beat(_phase(made.work), heartbeat.ids)
            self._settle(made)

    def _settle(self, made: Made) -> None:
        tokens = made.tokens.read()
        self.counter.count(made.work, made.tokens)
        for stay, token in zip(made.stays, tokens, strict=True):
            # it may have ended since
            if guest := self._guests.get(stay):
                _add(guest.row, token)


def _phase(work: PrefillWork | StepWork) -> Phase:
    return "decode" if isinstance(work, StepWork) else "prefill"


def _add(row: Generation, token: int) -> None:
    try:
        row.add(token)
    except Exception as error:
        # a tokenizer that stumbles over one prompt's tokens is nobody else's matter
        log.debug("a token could not be taken", exc_info=True)
        row.pending.fail(EngineError(f"the engine failed on this prompt ({type(error).__name__})"))


def _slot(stay: Stay) -> int:
    assert stay.slot is not None
    return stay.slot
