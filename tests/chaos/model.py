"""The bundled model under faults: its answers must not change while workers are killed, stopped and cut off.

`python -m tests.chaos model`: two workers with models/tiny-vl.
"""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random

import psutil

from producer import Client
from tests.chaos.fleet import Fleet
from tests.chaos.guard import Guard
from tests.redis_server import RedisServer
from tests.worker_process import TINY
from training.questions import held_out
from vqa.answer import Answer
from vqa.jobs.job import Job
from vqa.settings import QueueSettings

_LEASE_S = 3.0
_WAIT_S = 240.0

Fault = Callable[[Fleet, Random], None]


def main(questions: int = 40, rounds: int = 3, seed: int = 1) -> int:
    """Run; return 1 if an answer is missing or different."""
    settings = {"VQA_ENGINE": "pipeline", "VQA_MODEL": str(TINY), "VQA_SLOTS": "8", "VQA_LEASE_S": str(_LEASE_S)}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vqa-model-")))
        guard = stack.enter_context(Guard())
        server = stack.enter_context(RedisServer(folder / "redis", append_only=True))
        fleet = stack.enter_context(Fleet(folder, guard, server.port, [settings] * 2))
        client = stack.enter_context(Client(QueueSettings(redis_url=server.url)))
        fleet.wait_ready(180)
        undisturbed = _ask(client, "calm", questions)
        disturbed: dict[tuple[int, int], str | None] = {}
        for number in range(rounds):
            injecting = threading.Thread(target=_inject, args=(fleet, Random(f"{seed} {number}")), daemon=True)
            injecting.start()
            disturbed |= {(number, n): text for n, text in _ask(client, f"round{number}", questions).items()}
            injecting.join()
        violations = fleet.drain(60)
        ends = [life.status for life in fleet.lives]
    wrong = sum(text is None or text != undisturbed[number] for (_, number), text in disturbed.items())
    print(
        f"chaos model: {len(disturbed)} answers of tiny-vl under {len(_FAULTS) * rounds} faults, "
        f"{wrong} differ from the undisturbed ones; "
        f"{len(ends)} worker processes ({ends.count(-9)} killed){'; ' if violations else ''}{'; '.join(violations)}"
    )
    return 1 if wrong or violations or None in undisturbed.values() else 0


def _ask(client: Client, name: str, questions: int) -> dict[int, str | None]:
    """Return each question's answer; None for an error."""
    jobs = [
        Job.about(item.image, item.question, id=f"{name}-{number}", lane="bulk", max_new_tokens=16)
        for number, item in enumerate(held_out(questions))
    ]
    outcomes = dict(client.answers(client.submit_many(jobs), timeout_s=_WAIT_S))
    return {
        number: outcome.text if isinstance(outcome := outcomes[job.id], Answer) else None
        for number, job in enumerate(jobs)
    }


def _inject(fleet: Fleet, random: Random) -> None:
    for fault in random.sample(_FAULTS, len(_FAULTS)):
        time.sleep(random.uniform(0, 0.5))
        fault(fleet, random)


def _kill(fleet: Fleet, random: Random) -> None:
    with fleet.claim(random, 120) as worker:
        life = worker.signal(signal.SIGKILL, "killed")
        while life.end is None:
            time.sleep(0.05)


def _kill_engine(fleet: Fleet, random: Random) -> None:
    """Kill the process with the model, as the kernel does when memory runs out; its worker gives its jobs back."""
    with fleet.claim(random, 120) as worker:
        assert worker.life is not None
        for child in psutil.Process(worker.life.pid).children():
            if "workers.engine.process.child" in child.cmdline():
                child.kill()
        while worker.life.end is None:
            time.sleep(0.05)


def _stop(fleet: Fleet, random: Random) -> None:
    with fleet.claim(random, 120) as worker:
        worker.signal(signal.SIGSTOP)
        time.sleep(_LEASE_S * 1.5)
        worker.signal(signal.SIGCONT)


def _cut(fleet: Fleet, random: Random) -> None:
    with fleet.claim(random, 120) as worker:
        worker.proxy.cut()
        time.sleep(_LEASE_S * 1.5)
        worker.proxy.restore()


_FAULTS: list[Fault] = [_kill, _kill_engine, _stop, _cut]
