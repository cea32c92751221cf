"""A rollout's cards: each with the process that it had before, and how far its restart is."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vqa.errors import NotReady
from vqa.ledger.records import WorkerInfo
from vqa.rollout import ProcessInfo, Request, Target

#: `watched`: it answers with the new model, and goes back to the one before if it ends soon
Phase = Literal["waiting", "draining", "starting", "watched", "ready"]

#: a worker that ends by itself before its supervisor has heard of the rollout is asked again this many times
_MOST_ASKED = 3


@dataclass
class Card:
    """A worker that is to be restarted."""

    name: str
    before: ProcessInfo
    phase: Phase = "waiting"
    #: how long a restart may take, with a return to the model before
    limit_s: float = 0.0
    #: `time.monotonic()` of the last request
    asked_at: float = 0.0
    asked: int = 0
    #: its new process, as it was listed first
    after: ProcessInfo | None = None
    #: when that process was listed first, in ms on Redis's clock
    listed: int = 0
    #: whether the new model failed, and it runs the one before
    failed: bool = False

    @property
    def restarts(self) -> bool:
        return self.phase in ("draining", "starting")

    @property
    def is_busy(self) -> bool:
        """Whether it restarts, or is watched since."""
        return self.restarts or self.phase == "watched"

    @property
    def seconds(self) -> float:
        """Seconds since it was asked."""
        return time.monotonic() - self.asked_at

    def ask(self) -> None:
        """Note that it is asked now. Raises NotReady if it has been asked too often."""
        if self.asked >= _MOST_ASKED:
            raise NotReady(f"{self.name} was asked {self.asked} times and each time ended otherwise; see its log")
        self.phase, self.asked, self.asked_at = "draining", self.asked + 1, time.monotonic()

    def look(self, entry: WorkerInfo | None, request: Request) -> None:
        """Note what the list of workers says of it. Raises NotReady if the restart failed."""
        process = None if entry is None else ProcessInfo.from_about(entry.about)
        if entry is None or process is None:
            self._is_away()
        elif process.rollout == request.id and process.failed:
            self.failed = True
            raise NotReady(
                f"{self.name} could not run {request.target} and runs {process.target} again: {process.failed}"
            )
        elif process.rollout == request.id:
            # it is listed since its start was complete
            self._is_up(process, entry.seen, request)
        elif self.phase in ("watched", "ready"):
            raise NotReady(f"{self.name} was ready with {request.target} and now runs {process.target}; see its log")
        elif self.phase == "waiting":
            self.before = process
        elif process.started != self.before.started:
            # it ended before its supervisor heard of the rollout, or its supervisor was restarted
            self.before, self.phase = process, "waiting"
        if self.restarts and self.seconds > self.limit_s:
            raise NotReady(f"{self.name} is not ready {self.limit_s:.0f} s after it was asked to restart; see its log")

    def _is_up(self, process: ProcessInfo, seen: int, request: Request) -> None:
        if self.after is None:
            self.after, self.listed = process, seen
        if process.started != self.after.started:
            raise NotReady(
                f"{self.name} was ready with {request.target}, ended, and was started with it again; see its log"
            )
        # by its renewals, as one that has ended is still listed for a while. A clock that is set ends the watch early
        self.phase = "watched" if abs(seen - self.listed) < 1000 * request.watch_s else "ready"

    def _is_away(self) -> None:
        if self.phase == "ready":
            raise NotReady(f"{self.name} was ready and is gone; see its log")
        if self.is_busy:
            # one that was watched goes back to the model before
            self.phase = "starting"


def choose(
    listed: Sequence[WorkerInfo], target: Target, only: Collection[str], replaces: str | None
) -> tuple[list[Card], list[str]]:
    """Return the cards to restart, and the names of workers that answer the same jobs meanwhile.

    Cards that have the model already are left out, unless all have it. Raises ValueError, which says what to choose,
    and NotReady if there is nothing to choose from.
    """
    known = _known(listed, only)
    candidates = only or {name for name, process in known.items() if process.target != target} or known
    chosen = {name: process for name, process in known.items() if name in candidates}
    if replaces is not None:
        chosen = {name: process for name, process in chosen.items() if _is(process, replaces)}
        if not chosen:
            raise ValueError(f"no worker to restart runs {replaces}; they run {_models(known)}")
    elif not only and len({process.target for process in chosen.values()}) > 1:
        raise ValueError(f"workers run {_models(chosen)}: name the one to replace by --from")
    alike = {target, *(process.target for process in chosen.values())}
    others = [name for name, process in known.items() if name not in chosen and process.target in alike]
    return [Card(name, process) for name, process in chosen.items()], others


def _known(listed: Sequence[WorkerInfo], only: Collection[str]) -> dict[str, ProcessInfo]:
    if not listed:
        raise NotReady("no worker is up, so there is nothing to restart")
    processes = {worker.name: ProcessInfo.from_about(worker.about) for worker in listed}
    if missing := sorted(set(only) - processes.keys()):
        raise ValueError(f"no worker named {', '.join(missing)} is up; `vqa status` lists them")
    if old := sorted(name for name, process in processes.items() if process is None and (not only or name in only)):
        raise NotReady(
            f"{', '.join(old)}: of a release without this command; restart it by hand, or choose others by --worker"
        )
    return {name: process for name, process in processes.items() if process is not None}


def _is(process: ProcessInfo, named: str) -> bool:
    return named in (process.target.model, str(process.target))


def _models(processes: Mapping[str, ProcessInfo]) -> str:
    targets = [str(process.target) for process in processes.values()]
    return ", ".join(f"{target} ({targets.count(target)})" for target in sorted(set(targets)))
