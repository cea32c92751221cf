"""Everything on one machine: a Redis of its own, one worker with the small model, Flower, and the example questions.

Needs a checkout, for the model and the images. With VQA_REDIS_URL set, that Redis is used and none is started.
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from producer.client.client import Client
from producer.demo.child import Child
from producer.demo.processes import Processes, await_ready
from producer.demo.questions import Example, read_examples, table
from producer.demo.redis_server import EmbeddedRedis, free_port, is_free
from producer.monitor import flower
from producer.process import INTERRUPTED, TEMPORARY, USAGE, Stopped, stoppable
from vqa.answer import Answer
from vqa.errors import NotReady, SettingsError, VQAError
from vqa.job import Job
from vqa.results import Outcome
from vqa.settings import FlowerSettings, QueueSettings

CHECKOUT = Path(__file__).resolve().parents[2]

#: seconds: a cold torch and a first CUDA context take most of the first
READY_S = 180.0
FLOWER_S = 30.0
JOB_S = 120.0

#: a stopped worker finishes what it holds for so long, is killed by its supervisor 15 s later, and then by us
DRAIN_S = 5.0
GRACE_S = 25.0


def run_demo(exit_after: bool = False) -> int:
    """Start it all, ask, show, wait for Ctrl-C, stop it all; the exit status.

    0 after the table, or with `exit_after` if every expected answer came; 1 where something failed; 2 where this is no
    checkout or a setting is wrong; 130 and 75 where Ctrl-C or SIGTERM came before the table.
    """
    console = Console()
    demo = Demo(console)
    try:
        with stoppable():
            return demo.run(exit_after)
    except Stopped as stopped:
        if demo.done:
            return 0
        return INTERRUPTED if stopped.number == signal.SIGINT else TEMPORARY
    except VQAError as error:
        console.print(f"[red]vqa: {type(error).__name__}: {escape(str(error))}", soft_wrap=True)
        return USAGE if isinstance(error, SettingsError) else 1


class Demo:
    """One run. `done` says that the table was shown."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.done = False

    def run(self, exit_after: bool) -> int:
        """Until the table with `exit_after`, else until a signal. Raises VQAError, Stopped."""
        examples = read_examples(CHECKOUT / "examples")
        # an image that is not there is told before anything is started
        jobs = [Job.about(example.image, example.question, timeout_s=JOB_S) for example in examples]
        with ExitStack() as parts:
            settings, pages_settings = self._settings(parts), _flower_settings()
            client = parts.enter_context(Client(settings))
            local = parts.enter_context(Processes(GRACE_S))
            try:
                pages = self._start_flower(local, settings.redis_url, pages_settings)
                worker = self._start_worker(local, settings, client)
                if pages:
                    self._await_flower(pages, pages_settings)
                outcomes = self._ask(client, jobs)
                right = self._show(list(zip(examples, outcomes, strict=True)))
                self.done = True
                if not exit_after:
                    self._idle(settings, worker)
            except VQAError:
                local.show_log(self._console, "worker")
                raise
            return 0 if right else 1

    def _settings(self, parts: ExitStack) -> QueueSettings:
        settings = QueueSettings()
        if os.environ.get("VQA_REDIS_URL"):
            return settings
        url = parts.enter_context(EmbeddedRedis()).url
        self._console.print("Redis: one of its own, gone at the end")
        return settings.model_copy(update={"redis_url": url})

    def _start_flower(self, local: Processes, redis_url: str, settings: FlowerSettings) -> Child | None:
        if not flower.installed():
            self._console.print("Flower: not installed (pip install 'vqa-queue[flower]')")
            return None
        environment = {
            "VQA_REDIS_URL": redis_url,
            "VQA_FLOWER_PASSWORD": settings.password or "",
            "VQA_FLOWER_PORT": str(settings.port),
        }
        return local.start("flower", ["producer.monitor.flower"], environment)

    def _start_worker(self, local: Processes, settings: QueueSettings, client: Client) -> Child:
        # a Redis that others use may have other workers
        node = f"demo-{secrets.token_hex(3)}"
        card = os.environ.get("VQA_CARDS") or first_card()
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
        worker = local.start("worker", ["workers", "--name", node], environment)
        where = "the CPU" if card == "cpu" else f"card {card}"
        with self._console.status(f"Worker: loading the small model on {where} ..."):
            took_s = await_ready("the worker", worker, lambda: _is_up(client, node), READY_S)
        self._console.print(f"Worker: ready on {where} after {took_s:.1f} s")
        return worker

    def _await_flower(self, pages: Child, settings: FlowerSettings) -> None:
        address, port = settings.address, settings.port
        try:
            await_ready("Flower", pages, lambda: not is_free(address, port), FLOWER_S)
        except NotReady as error:
            # the questions are answered without it
            self._console.print(f"[yellow]{error}; going on without")
            return
        self._say(f"Flower: {flower.page(settings)}  user {settings.user}  password {settings.password}")

    def _ask(self, client: Client, jobs: list[Job]) -> list[Outcome]:
        ids = client.submit_many(jobs)
        # the jobs' timeout ends the wait in any case; the margin is for whoever closes them
        ended = client.answers(ids, timeout_s=JOB_S + 30)
        outcomes = dict(track(ended, "Asking", total=len(ids), console=self._console, transient=True))
        return [outcomes[id] for id in ids]

    def _show(self, answered: list[tuple[Example, Outcome]]) -> bool:
        self._console.print(table(answered))
        marks = [(example, example.matches(outcome)) for example, outcome in answered]
        wrong = [example for example, mark in marks if mark is False]
        judged = sum(example.expected is not None for example, _ in answered)
        answers = sum(isinstance(outcome, Answer) for _, outcome in answered)
        right = sum(mark is True for _, mark in marks)
        self._console.print(f"{answers} of {len(answered)} answered; {right} of {judged} as expected")
        for example in wrong:
            self._say(f"not as expected: {example.image.name}: {example.question}")
        return not wrong

    def _idle(self, settings: QueueSettings, worker: Child) -> None:
        self._say(f"To ask from another terminal: export VQA_REDIS_URL={settings.redis_url}")
        self._say("Ctrl-C stops everything.")
        while worker.code() is None:
            time.sleep(0.2)
        raise NotReady(f"the worker ended with status {worker.code()}")

    def _say(self, line: str) -> None:
        # one line however long, so that it can be copied; square brackets in it are no markup
        self._console.print(line, markup=False, soft_wrap=True)


def _flower_settings() -> FlowerSettings:
    """Flower's settings, with a random password where none is set, and a free port where the set one is taken."""
    settings = FlowerSettings()
    port = settings.port if is_free(settings.address, settings.port) else free_port(settings.address)
    password = settings.password or secrets.token_urlsafe(9)
    return settings.model_copy(update={"port": port, "password": password})


def _is_up(client: Client, node: str) -> bool:
    return any(info.name.startswith(node) for info in client.workers())


def first_card() -> str:
    """The first card as VQA_CARDS names it, or `cpu`; NVML does not open CUDA."""
    try:
        import pynvml

        pynvml.nvmlInit()
        cards = [str(card) for card in range(pynvml.nvmlDeviceGetCount())]
    except Exception:
        # not installed, no driver, or a driver that does not answer: the CPU will do
        return "cpu"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    shown = cards if visible is None else [card for card in visible.split(",") if card in cards]
    return shown[0] if shown else "cpu"
