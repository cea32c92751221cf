"""Everything on one machine: a Redis of its own, one worker with the small model, Flower, and the example questions.

Needs a checkout, for the model and the pictures. With VQA_REDIS_URL set, that Redis is used and none is started.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from producer import flower
from producer.child import Child
from producer.client import Client
from producer.embedded import EmbeddedRedis
from producer.examples import Example, read_examples, table
from vqa.answer import Answer
from vqa.errors import NotReady, SettingsError, VQAError
from vqa.job import Job
from vqa.outcome import Outcome
from vqa.settings import QueueSettings

CHECKOUT = Path(__file__).resolve().parent.parent

#: seconds: a cold torch and a first CUDA context take most of it
READY_S = 180.0
FLOWER_S = 30.0
JOB_S = 120.0

#: the worker finishes what it holds for so long when it is stopped, and is ended by force a while after
DRAIN_S = 5.0
GRACE_S = 25.0


class Stopped(BaseException):
    """Ctrl-C or SIGTERM; the first one only, so that cleaning up is not interrupted."""


def run_demo(exit_after: bool = False) -> int:
    """Start it all, ask, show, wait for Ctrl-C, stop it all; the exit status.

    0 after the table, or with `exit_after` if every expected answer came; 1 where something failed; 2 where this is no
    checkout or a setting is wrong; 130 and 75 where Ctrl-C or SIGTERM came before the table.
    """
    console = Console()
    logs = Path(tempfile.mkdtemp(prefix="vqa-demo-"))
    demo = Demo(console, logs)
    failed = False
    try:
        with stoppable():
            return demo.run(exit_after)
    except Stopped as stopped:
        if demo.done:
            return 0
        return 130 if stopped.args[0] == signal.SIGINT else 75
    except SettingsError as error:
        console.print(f"[red]vqa: SettingsError: {escape(str(error))}")
        return 2
    except VQAError as error:
        failed = True
        console.print(f"[red]vqa: {type(error).__name__}: {escape(str(error))}")
        show_logs(console, logs)
        return 1
    finally:
        if not failed:
            shutil.rmtree(logs, ignore_errors=True)


class Demo:
    """One run. `done` says that the table was shown."""

    def __init__(self, console: Console, logs: Path) -> None:
        self._console = console
        self._logs = logs
        self.done = False

    def run(self, exit_after: bool) -> int:
        """Until the table with `exit_after`, else until a signal. Raises VQAError, Stopped."""
        examples = read_examples(CHECKOUT / "examples")
        with ExitStack() as parts:
            settings = self._settings(parts)
            client = parts.enter_context(Client(settings))
            page = self._start_flower(parts, settings)
            worker = self._start_worker(parts, settings, client)
            if page:
                self._await_flower(page, settings)
            answered = self._ask(client, examples)
            wrong = self._show(answered)
            self.done = True
            if exit_after:
                return 1 if wrong else 0
            self._idle(settings, worker)
        return 0

    def _settings(self, parts: ExitStack) -> QueueSettings:
        settings = QueueSettings.load()
        changes: dict[str, object] = {"flower_password": settings.flower_password or secrets.token_urlsafe(9)}
        if not os.environ.get("VQA_REDIS_URL"):
            changes["redis_url"] = parts.enter_context(EmbeddedRedis()).url
            self._console.print("Redis: one of its own, gone at the end")
        if not _is_free(settings.flower_address, settings.flower_port):
            changes["flower_port"] = _free_port(settings.flower_address)
        return settings.model_copy(update=changes)

    def _start(self, parts: ExitStack, name: str, module: list[str], environment: dict[str, str]) -> Child:
        with (self._logs / f"{name}.log").open("wb") as log:
            child = Child([sys.executable, "-m", *module], log, os.environ | environment, grace_s=GRACE_S)
        parts.callback(child.stop)
        return child

    def _start_flower(self, parts: ExitStack, settings: QueueSettings) -> Child | None:
        if not flower.installed():
            self._console.print("Flower: not installed (pip install 'vqa-queue[flower]')")
            return None
        environment = {
            "VQA_REDIS_URL": settings.redis_url,
            "VQA_FLOWER_PASSWORD": settings.flower_password or "",
            "VQA_FLOWER_PORT": str(settings.flower_port),
        }
        return self._start(parts, "flower", ["producer.flower"], environment)

    def _start_worker(self, parts: ExitStack, settings: QueueSettings, client: Client) -> Child:
        node = f"demo-{secrets.token_hex(3)}"
        card = os.environ.get("VQA_CARDS") or _card()
        environment = {
            "VQA_REDIS_URL": settings.redis_url,
            "VQA_MODEL": str(CHECKOUT / "models" / "tiny-vl"),
            "VQA_REVISION": "",
            "VQA_CARDS": card,
            "VQA_SLOTS": os.environ.get("VQA_SLOTS") or "16",
            "VQA_DRAIN_S": str(DRAIN_S),
            "VQA_READY_TIMEOUT_S": str(READY_S),
            "HF_HUB_OFFLINE": "1",
        }
        worker = self._start(parts, "worker", ["workers", "--name", node], environment)
        began = time.monotonic()
        ready = lambda: any(info.name.startswith(node) for info in client.workers())  # noqa: E731
        where = "the CPU" if card == "cpu" else f"card {card}"
        with self._console.status(f"Worker: loading the small model on {where} ..."):
            _await(ready, worker, "the worker", READY_S)
        self._console.print(f"Worker: ready on {where} after {time.monotonic() - began:.1f} s")
        return worker

    def _await_flower(self, child: Child, settings: QueueSettings) -> None:
        try:
            _await(lambda: not _is_free(settings.flower_address, settings.flower_port), child, "Flower", FLOWER_S)
        except NotReady as error:
            # the questions are answered without it
            self._console.print(f"[yellow]{error}; without it")
            return
        self._console.print(
            f"Flower: {flower.page(settings)}  user {escape(settings.flower_user)}"
            f"  password {escape(settings.flower_password or '')}",
            soft_wrap=True,
        )

    def _ask(self, client: Client, examples: list[Example]) -> list[tuple[Example, Outcome]]:
        asked = {(job := Job.about(one.image, one.question, timeout_s=JOB_S)).id: (job, one) for one in examples}
        client.submit_many(job for job, _ in asked.values())
        # the jobs' deadline ends the wait in any case; the margin is the janitor's
        ended = client.answers(asked, timeout_s=JOB_S + 30)
        outcomes = dict(track(ended, "Asking", total=len(asked), console=self._console, transient=True))
        return [(one, outcomes[id]) for id, (_, one) in asked.items()]

    def _show(self, answered: list[tuple[Example, Outcome]]) -> list[Example]:
        self._console.print(table(answered))
        marks = [(example, example.matches(outcome)) for example, outcome in answered]
        wrong = [example for example, mark in marks if mark is False]
        answers = sum(isinstance(outcome, Answer) for _, outcome in answered)
        judged = sum(mark is not None for _, mark in marks)
        self._console.print(f"{answers} of {len(answered)} answered; {judged - len(wrong)} of {judged} as expected")
        for example in wrong:
            self._console.print(f"[red]not as expected: {escape(f'{example.image.name}: {example.question}')}")
        return wrong

    def _idle(self, settings: QueueSettings, worker: Child) -> None:
        self._console.print("To ask from another terminal:")
        self._console.print(f"  export VQA_REDIS_URL={escape(settings.redis_url)}", soft_wrap=True)
        self._console.print("Ctrl-C stops everything.")
        while worker.code() is None:
            time.sleep(0.2)
        raise NotReady(f"the worker ended with status {worker.code()}")


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise Stopped on the first SIGINT or SIGTERM inside; later ones change nothing, as every wait is bounded."""

    def stop(number: int, _frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show_logs(console: Console, logs: Path, lines: int = 15) -> None:
    """The end of each child's log, and where the whole of it is."""
    for path in sorted(logs.glob("*.log")):
        text = path.read_text(errors="replace").splitlines()
        if text:
            console.rule(f"end of {path}", align="left")
            console.print("\n".join(text[-lines:]), markup=False, highlight=False, soft_wrap=True)


def _await(ready: Callable[[], bool], child: Child, name: str, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not ready():
        if child.code() is not None:
            raise NotReady(f"{name} ended with status {child.code()} before it was ready")
        if time.monotonic() > end:
            raise NotReady(f"{name} was not ready within {timeout_s:.0f} s")
        time.sleep(0.1)


def _card() -> str:
    """The first card, as VQA_CARDS names it; NVML does not open CUDA."""
    try:
        import pynvml

        pynvml.nvmlInit()
        cards = range(pynvml.nvmlDeviceGetCount())
    except Exception:
        # not installed, no driver, or a driver that does not answer: the CPU will do
        return "cpu"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    shown = list(map(str, cards)) if visible is None else [card for card in visible.split(",") if card.isdecimal()]
    return shown[0] if shown else "cpu"


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
    return port
