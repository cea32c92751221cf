"""A worker played in the test's own process: it takes jobs from the ledger and closes them as told."""

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from redis import Redis

from producer import Answer, Client, Job, JobGivenUp, Timings, Usage
from producer.cli.main import main
from tests.producer.image_host import Identity, ImageHost, image_host
from tests.tracing import Recorded
from vqa.celery import make_app, publish_promoted
from vqa.jobs.lane import LANES
from vqa.jobs.message import TextPart
from vqa.ledger.ledger import Lease, Ledger
from vqa.ledger.records import Ending
from vqa.redis.connection import connect
from vqa.results import Outcome, encode, tally
from vqa.settings import QueueSettings
from vqa.tracing import active

ROOT = Path(__file__).parents[2]

#: the command as a user starts it
COMMAND = [sys.executable, "-W", "error", "-m", "producer.cli.main"]

Behaviour = Callable[[Job, Lease], Outcome]
MakeJob = Callable[..., Job]
Vqa = Callable[..., subprocess.CompletedProcess[str]]


def wait_until(holds: Callable[[], object], what: str, timeout_s: float = 30) -> None:
    """Look until it holds."""
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


def echo(job: Job, lease: Lease) -> Outcome:
    """The job's last words."""
    [*_, last] = [part.text for part in job.messages[-1].content if isinstance(part, TextPart)]
    return answer(job.id, last)


def answer(id: str, text: str) -> Answer:
    return Answer(
        id=id,
        text=text,
        finish_reason="stop",
        usage=Usage(prompt_tokens=3, completion_tokens=2, cached_tokens=1),
        timings=Timings(queued_s=0.1, media_s=0.1, engine_s=0.1, total_s=0.3),
        model="played",
        worker="played@here",
        attempt=1,
    )


class PlayedWorker:
    """Takes and closes jobs; with `run` around, whatever is published, in a thread."""

    def __init__(self, redis: Redis, settings: QueueSettings) -> None:
        self._redis = redis
        self.ledger = Ledger(redis)
        self._app = make_app(settings)
        self._backend = self._app.backend
        self._stop = threading.Event()

    def take(self, id: str) -> Lease:
        lease = self.ledger.take(id, "played@here", f"token-{id}", lease_s=9)
        assert isinstance(lease, Lease), lease
        publish_promoted(self._app, lease.promoted)
        return lease

    def _close(self, ending: Ending) -> None:
        closed = self.ledger.close(ending)
        assert closed
        publish_promoted(self._app, closed.promoted)

    def close(self, id: str, outcome: Outcome) -> None:
        lease = self.take(id)
        encoded = encode(self._backend, id, outcome, lease.header.attempt, lease.header.error)
        self._close(Ending(id, lease.token, encoded, ttl_s=60, tally=tally(outcome)))

    def give_up(self, id: str, reason: str = "attempts_used_up", error: str = "EngineError: once more") -> None:
        """Close as what becomes a dead letter."""
        lease = self.take(id)
        encoded = encode(self._backend, id, JobGivenUp(f"{reason}: given up"), lease.header.attempt, error)
        self._close(Ending(id, lease.token, encoded, 60, reason, error, tally=tally(JobGivenUp())))

    def run(self, behaviour: Behaviour) -> None:
        while not self._stop.is_set():
            message = self._redis.brpop(list(LANES), timeout=0.1)
            if message:
                id = json.loads(message[1])["headers"]["id"]
                lease = self.ledger.take(id, "played@here", f"token-{id}", lease_s=9)
                if isinstance(lease, Lease):
                    publish_promoted(self._app, lease.promoted)
                    outcome = behaviour(Job.from_json(lease.payload), lease)
                    encoded = encode(self._backend, id, outcome, 1)
                    closed = self.ledger.close(Ending(id, lease.token, encoded, ttl_s=60, tally=tally(outcome)))
                    publish_promoted(self._app, closed.promoted)

    def stop(self) -> None:
        self._stop.set()


@pytest.fixture
def worker(redis: Redis, queue_settings: QueueSettings) -> PlayedWorker:
    """Does what the test tells it to, one job at a time."""
    return PlayedWorker(redis, queue_settings)


@pytest.fixture
def answering(redis: Redis, queue_settings: QueueSettings) -> Iterator[Callable[[Behaviour], None]]:
    """Start a worker that treats every job by the given behaviour."""
    started: list[tuple[PlayedWorker, threading.Thread]] = []
    with connect(queue_settings) as connection:

        def start(behaviour: Behaviour) -> None:
            worker = PlayedWorker(connection, queue_settings)
            thread = threading.Thread(target=worker.run, args=(behaviour,))
            started.append((worker, thread))
            thread.start()

        yield start
        for worker, thread in started:
            worker.stop()
            thread.join(timeout=10)
            assert not thread.is_alive()


@pytest.fixture
def echoing(answering: Callable[[Behaviour], None]) -> None:
    """A worker that answers every job with its question."""
    answering(echo)


@pytest.fixture
def client(queue_settings: QueueSettings) -> Iterator[Client]:
    with Client(queue_settings) as client:
        yield client


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    """This process traces."""
    recorded = Recorded()
    monkeypatch.setattr(active, "_started", True)
    monkeypatch.setattr(active, "_own", recorded.tracing)
    yield recorded
    recorded.provider.shutdown()


@pytest.fixture(scope="session")
def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "teal").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity(tmp_path_factory.mktemp("identity"))


@pytest.fixture
def host(identity: Identity, png: bytes) -> Iterator[ImageHost]:
    """Has the image `png` under any name, until it is told to reply otherwise."""
    with image_host(identity, png) as host:
        yield host


@pytest.fixture
def allowed_host(host: ImageHost, monkeypatch: pytest.MonkeyPatch) -> ImageHost:
    """May be fetched from, in this process and in those that it starts."""
    for name, value in host.variables.items():
        monkeypatch.setenv(name, value)
    return host


@pytest.fixture
def question() -> Callable[..., Job]:
    """A job of words alone."""

    def make(text: str = "What is it?", **fields: object) -> Job:
        return Job(messages=[{"role": "user", "content": text}], **fields)

    return make


@pytest.fixture
def environment(redis_url: str) -> dict[str, str]:
    """Of the command."""
    return os.environ | {"VQA_REDIS_URL": redis_url, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}


@pytest.fixture
def run_here(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command to its end in this process: a new one takes a second of processor time to start."""

    def run(
        words: list[str], folder: Path | None = None, extra: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        with monkeypatch.context() as patch:
            if folder is not None:
                patch.chdir(folder)
            patch.setattr("sys.argv", ["vqa", *words])
            for name, value in {**environment, **(extra or {})}.items() - os.environ.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as end:
                main()
        return subprocess.CompletedProcess(words, int(end.value.code or 0), *capfd.readouterr())

    return run


@pytest.fixture
def vqa(environment: dict[str, str], run_here: Callable[..., subprocess.CompletedProcess[str]]) -> Vqa:
    """Run the command to its end, in a new process where it is given `options` or becomes another program.

    `env` has variables of the command's own.
    """

    def run(
        *arguments: object, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        words, extra = [*map(str, arguments)], env or {}
        if not options and not {"settings", "worker", "tune"} & {*words}:
            return run_here(words, extra=extra)
        command = [*COMMAND, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment | extra, **options)

    return run
