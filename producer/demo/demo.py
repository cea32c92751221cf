"""`vqa demo`: runs Redis, a worker with a small model, the gateway and Flower on one machine, and asks questions.

Needs a checkout, for the model and the images. If VQA_REDIS_URL is set, that Redis is used and none is started.
"""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import sys
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from producer.client.client import Client
from producer.demo import image_server
from producer.demo.child import Child
from producer.demo.image_server import ImageServer
from producer.demo.processes import Processes, await_ready
from producer.demo.questions import Example, read_examples, table
from producer.demo.redis_server import EmbeddedRedis
from producer.demo.web import WebServer, flower_settings, start_flower, start_gateway
from producer.monitor import flower
from producer.process import INTERRUPTED, TEMPORARY, USAGE, Stopped, stoppable
from vqa.answer import Answer
from vqa.errors import NotReady, SettingsError, VQAError
from vqa.flower_settings import FlowerSettings
from vqa.jobs.job import Job
from vqa.results import Outcome
from vqa.settings import QueueSettings

CHECKOUT = Path(__file__).resolve().parents[2]

#: seconds; importing torch and creating a CUDA context take most of the first
READY_S = 180.0
JOB_S = 120.0

#: a stopping worker has DRAIN_S to finish its jobs; its supervisor kills it 15 s later, and the demo after GRACE_S
DRAIN_S = 5.0
GRACE_S = 25.0


def run_demo(exit_after: bool = False, quiet: bool = False) -> int:
    """Start everything, ask, print the answers, wait for Ctrl-C, and stop everything. Return the exit status.

    0 after the answers, or with `exit_after` if all are as expected; 1 if something failed; 2 if this is not a checkout
    or a setting is wrong; 130 or 75 if Ctrl-C or SIGTERM came before the answers.
    """
    console = Console()
    demo = Demo(console, Console(quiet=quiet))
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
    """One run. `done` is True once the answers are printed."""

    def __init__(self, console: Console, info: Console) -> None:
        self._console = console
        #: for everything but answers and errors
        self._info = info
        self.done = False

    def run(self, exit_after: bool) -> int:
        """Run until the answers are printed with `exit_after`, else until a signal. Raises VQAError or Stopped."""
        examples = read_examples(CHECKOUT / "examples")
        # reads the images: a missing one fails before anything is started
        jobs = [Job.about(example.image, example.question, timeout_s=JOB_S) for example in examples]
        with ExitStack() as stack:
            settings, flowers = self._settings(stack), flower_settings()
            images = self._serve_images(stack)
            if images is not None:
                # the same image, as somebody would ask about one on the web
                first = f"{images.url}/{examples[0].image.name}"
                jobs[0] = Job.about(first, examples[0].question, timeout_s=JOB_S)
            fetch_settings = images.fetch_settings if images else None
            client = stack.enter_context(Client(settings, fetch_settings=fetch_settings))
            processes = stack.enter_context(Processes(GRACE_S))
            try:
                # beside the worker's model, which takes longer to load
                gateway = start_gateway(processes, settings.redis_url, DRAIN_S)
                shown = start_flower(processes, settings.redis_url, flowers)
                worker = self._start_worker(processes, settings, client)
                page, flower_page = self._wait(gateway), self._wait(shown)
                with images.trusted() if images else nullcontext():
                    outcomes = self._ask(client, jobs)
                all_right = self._show(list(zip(examples, outcomes, strict=True)))
                self.done = True
                if not exit_after:
                    self._show_commands(settings, flowers if flower_page else None, examples[0], page)
                    self._idle(worker)
            except VQAError:
                processes.show_log(self._console, "worker")
                raise
            return 0 if all_right else 1

    def _settings(self, stack: ExitStack) -> QueueSettings:
        # the demo itself fetches the image that it serves
        settings = QueueSettings(fetch="producer")
        if os.environ.get("VQA_REDIS_URL"):
            return settings
        url = stack.enter_context(EmbeddedRedis()).url
        self._info.print("Redis: started, for the time of the demo")
        return settings.model_copy(update={"redis_url": url})

    def _serve_images(self, stack: ExitStack) -> ImageServer | None:
        """Start a server of the example images; return None if nothing can be fetched from it."""
        if not image_server.installed():
            self._say("Images: from files alone; one of them comes over https with pip install 'vqa-queue[fetch]'")
            return None
        server = stack.enter_context(image_server.image_server(CHECKOUT / "examples" / "images"))
        self._say(f"Images: one of them is fetched from {server.url}")
        return server

    def _start_worker(self, processes: Processes, settings: QueueSettings, client: Client) -> Child:
        # a shared Redis may have other workers
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
        worker = processes.start("worker", ["workers", "--name", node], environment)
        where = "the CPU" if card == "cpu" else f"card {card}"
        with self._info.status(f"Worker: loading the small model on {where} ..."):
            took_s = await_ready("the worker", worker, lambda: _is_up(client, node), READY_S)
        self._info.print(f"Worker: ready on {where} after {took_s:.1f} s")
        return worker

    def _wait(self, server: WebServer | str) -> str | None:
        """Return the server's address once it listens; None if it does not, or was not started."""
        if isinstance(server, str):
            self._say(server)
            return None
        return server.url if server.wait(self._say) else None

    def _say(self, line: str) -> None:
        # no markup, because of square brackets
        self._info.print(line, markup=False, highlight=False)

    def _ask(self, client: Client, jobs: list[Job]) -> list[Outcome]:
        ids = client.submit_many(jobs)
        # the jobs' own timeout ends the wait; the margin is for the janitor that closes them
        ended = client.answers(ids, timeout_s=JOB_S + 30)
        outcomes = dict(track(ended, "Asking", total=len(ids), console=self._info, transient=True))
        return [outcomes[id] for id in ids]

    def _show(self, answered: list[tuple[Example, Outcome]]) -> bool:
        """Print the answers; return whether all are as expected."""
        self._console.print(table(answered))
        matches = [example.matches(outcome) for example, outcome in answered]
        expected = sum(example.expected is not None for example, _ in answered)
        answers = sum(isinstance(outcome, Answer) for _, outcome in answered)
        self._console.print(f"{answers} of {len(answered)} answered; {matches.count(True)} of {expected} as expected")
        return False not in matches

    def _show_commands(
        self, settings: QueueSettings, flowers: FlowerSettings | None, example: Example, page: str | None = None
    ) -> None:
        """Print commands that work as they stand, in another terminal with the same current folder."""
        vqa = f"VQA_REDIS_URL={shlex.quote(settings.redis_url)} {_vqa_command()}"
        lines = [
            "",
            "Ask more from another terminal:",
            f"  {vqa} ask {_shown(example.image)} {shlex.quote(example.question)}",
            f"  {vqa} status",
        ]
        if page:
            lines.append(f"Ask in a browser: {page}")
        if flowers:
            lines.append(f"Flower: {flower.page(flowers)}  user {flowers.user}  password {flowers.password}")
        for line in [*lines, "Ctrl-C stops everything."]:
            # no line breaks, so that a line can be copied; no markup, because of square brackets
            self._info.print(line, markup=False, highlight=False, soft_wrap=True)

    def _idle(self, worker: Child) -> None:
        while worker.code() is None:
            time.sleep(0.2)
        raise NotReady(f"the worker exited with status {worker.code()}")


def _vqa_command() -> str:
    python = Path(sys.executable)
    script = python.with_name("vqa")
    return _shown(script) if script.exists() else f"{_shown(python)} -m producer.cli.main"


def _shown(path: Path) -> str:
    """Return the path for a command line, relative to the current folder if it is inside."""
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def _is_up(client: Client, node: str) -> bool:
    return any(info.name.startswith(node) for info in client.workers())


def first_card() -> str:
    """Return the first card as VQA_CARDS names it, or `cpu`. NVML does not initialise CUDA."""
    try:
        import pynvml

        pynvml.nvmlInit()
        cards = [str(card) for card in range(pynvml.nvmlDeviceGetCount())]
    except Exception:
        # NVML is not installed, or there is no working driver
        return "cpu"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    usable = cards if visible is None else [card for card in visible.split(",") if card in cards]
    return usable[0] if usable else "cpu"
