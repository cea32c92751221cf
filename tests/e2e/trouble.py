"""A queue of a test's own, whose Redis and whose network get into trouble: jobs go on, and each is answered once."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis import Redis

from producer import Client
from tests.proxy import Proxy
from tests.redis_server import RedisServer
from tests.worker_process import WorkerProcess
from vqa import Answer, Job, QueueUnavailable, VQAError
from vqa.errors import QueueFull
from vqa.ledger.commands import outcome_key
from vqa.ledger.ledger import Ledger
from vqa.settings import QueueSettings

#: longest time until a producer gets an error: one call without an answer, its retries, a connection
TIMEOUT_S = 2.0
ERROR_WITHIN_S = TIMEOUT_S + 3 + 2


class Stage:
    """Redis with its data on disk, workers that reach it through a proxy each, and a producer with its own."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self._folder = folder
        self._variables = {"VQA_LEASE_S": "2", "VQA_REDIS_TIMEOUT_S": str(TIMEOUT_S), "VQA_SLOTS": "2"} | variables
        self._running = ExitStack()
        self.server = RedisServer(folder / "redis", append_only=True)
        self.workers: dict[str, tuple[WorkerProcess, Proxy]] = {}

    def __enter__(self) -> Self:
        self._running.enter_context(self.server)
        self.proxy = self._running.enter_context(Proxy(self.server.port))
        fields = {name.removeprefix("VQA_").lower(): value for name, value in self._variables.items()}
        own = {name: value for name, value in fields.items() if name in QueueSettings.model_fields}
        settings = QueueSettings(redis_url=f"redis://127.0.0.1:{self.proxy.port}/0", **own)
        self.client = self._running.enter_context(Client(settings))
        self.redis = self._running.enter_context(Redis(port=self.server.port, socket_timeout=10))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._running.close()

    def work(self, name: str = "worker") -> WorkerProcess:
        """Start a worker behind a proxy of its own; ready when this returns."""
        proxy = self._running.enter_context(Proxy(self.server.port))
        url = f"redis://127.0.0.1:{proxy.port}/0"
        worker = WorkerProcess(url, name, self._folder / f"{name}.log", **self._variables)
        self._running.callback(worker.stop)
        worker.wait_ready(Ledger(self.redis))
        self.workers[name] = worker, proxy
        return worker

    def submit(self, number: int, seconds: float = 0.5, **fields: Any) -> list[str]:
        """So many jobs that take so long each; their ids."""
        return self.client.submit_many(job(seconds, **fields) for _ in range(number))

    def wait_until_running(self, ids: Iterable[str], number: int = 1) -> None:
        """Until so many of these jobs are held by workers."""
        until = time.monotonic() + 20
        while sum(state.state == "leased" for state in self.client.states(ids).values()) < number:
            assert time.monotonic() < until, "no worker takes the jobs"
            time.sleep(0.02)

    def refuses(self) -> str:
        """Return the error of a producer that submits now; it has to come in time."""
        begun = time.monotonic()
        try:
            self.client.submit(job())
        except (QueueUnavailable, QueueFull) as error:
            assert time.monotonic() - begun < ERROR_WITHIN_S
            return f"{type(error).__name__}: {error}"
        raise AssertionError("a job was accepted")

    @contextmanager
    def waiting(self, id: str) -> Iterator[list[tuple[float, VQAError | Answer]]]:
        """Somebody waits for this job meanwhile, and is not left hanging: what it got, and when (monotonic)."""
        got: list[tuple[float, VQAError | Answer]] = []

        def wait() -> None:
            outcome: VQAError | Answer
            try:
                outcome = self.client.answer(id, timeout_s=40)
            except VQAError as error:
                outcome = error
            got.append((time.monotonic(), outcome))

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        yield got
        thread.join(60)
        assert got, "it waits for ever"

    def answered_once(self, ids: Iterable[str], timeout_s: float = 30) -> dict[str, Answer]:
        """All of these jobs are answered in the end, and what was once an outcome stays it."""
        ids = list(ids)
        until = time.monotonic() + timeout_s
        answers: dict[str, Answer] = {}
        while missing := [id for id in ids if id not in answers]:
            assert time.monotonic() < until, (
                f"{len(missing)} of {len(ids)} jobs are open: {self.client.states(missing)}"
            )
            with suppress(QueueUnavailable):
                for id, outcome in self.client.answers(missing, timeout_s=5):
                    if isinstance(outcome, Answer):
                        answers[id] = outcome
        kept = {id: self.redis.get(outcome_key(id)) for id in ids}
        # whoever ran one of them too would be done by now
        time.sleep(1)
        assert {id: self.redis.get(outcome_key(id)) for id in ids} == kept
        # Redis may have read a job after its producer got an error; without a message it runs some seconds later
        until = time.monotonic() + 20
        while sum(sum(states.values()) for states in self.client.counts().values()):
            assert time.monotonic() < until, "a job stays open"
            time.sleep(0.1)
        return answers

    def answering(self, ids: Iterable[str]) -> set[str]:
        """Return the workers that answer these jobs."""
        return {answer.worker.partition("@")[0] for answer in self.answered_once(ids).values()}

    def away(self, seconds: float) -> None:
        """Redis is killed while jobs run and wait, and comes back with its data after so long."""
        ids = self.submit(6)
        self.wait_until_running(ids, 2)
        with self.waiting(ids[-1]) as got:
            begun = time.monotonic()
            self.server.kill()
            assert "does not answer" in self.refuses()
            time.sleep(max(0.0, begun + seconds - time.monotonic()))
            self.server.start()
        at, outcome = got[0]
        assert isinstance(outcome, QueueUnavailable)
        assert at - begun < ERROR_WITHIN_S
        self.answered_once(ids + self.submit(2))
        self.unharmed()

    def silence(self, worker: WorkerProcess) -> None:
        """Nothing passes between this worker and Redis, and neither gets an error."""
        self.workers[worker.name][1].silence()

    def slow(self, worker: WorkerProcess, latency_s: float) -> None:
        """What this worker and the producer send arrives so much later, and what Redis sends them, too."""
        for proxy in (self.proxy, self.workers[worker.name][1]):
            proxy.slow(latency_s)

    def restore(self, worker: WorkerProcess) -> None:
        """Both ways are as they were."""
        for proxy in (self.proxy, self.workers[worker.name][1]):
            proxy.restore()

    def wait_for_log(self, worker: WorkerProcess, words: str, timeout_s: float = 15) -> None:
        """Until the worker has said so."""
        until = time.monotonic() + timeout_s
        while words not in worker.log.read_text():
            assert time.monotonic() < until, worker.log.read_text()
            time.sleep(0.05)

    def unharmed(self) -> None:
        """Every worker is the process that it was."""
        for worker, _ in self.workers.values():
            assert worker.process.poll() is None, f"{worker.name} ended:\n{worker.log.read_text()}"


def job(seconds: float = 0, **fields: Any) -> Job:
    """One that takes so long."""
    return Job(messages=[{"role": "user", "content": "?"}], metadata={"echo_delay_s": str(seconds)}, **fields)
