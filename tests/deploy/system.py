"""A running queue under load, and Prometheus, which reads its metrics."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from producer import Client, Job
from producer.demo.redis_server import free_port
from tests.deploy.prometheus import Prometheus
from tests.producer.gateway.gateway_process import GatewayProcess
from tests.redis_server import RedisServer
from tests.worker_process import ROOT, TINY, WorkerProcess
from vqa.jobs.retry_policy import RetryPolicy
from vqa.ledger.ledger import Ledger
from vqa.redis.connection import connect
from vqa.settings import QueueSettings

_KEY = "a key for prometheus"
_IMAGE = ROOT / "examples" / "images" / "rocket.jpg"
_FILTER = {
    "VQA_FILTER_LISTS": str(ROOT / "examples" / "filter" / "words.txt"),
    "VQA_FILTER_ACTIONS": "default=flag",
    "VQA_FILTER_QUESTIONS": "1",
}
#: a worker's variables, by its name: one without a model, and one whose engine counts passes and blocks
_WORKERS: Mapping[str, Mapping[str, str]] = {
    "echo": {"VQA_SLOTS": "4", "VQA_ECHO_DELAY_S": "0.05", **_FILTER},
    "tiny": {"VQA_ENGINE": "continuous", "VQA_MODEL": str(TINY), "VQA_SLOTS": "4", "OMP_NUM_THREADS": "1"},
}


@dataclass(frozen=True)
class System:
    client: Client
    gateway: GatewayProcess
    prometheus: Prometheus

    def load(self, bulk: int = 20) -> None:
        """Ask what every panel needs, and wait for the outcomes."""
        jobs = [_job("What is on it?", image=True, lane="bulk", tenant=f"t{number % 3}") for number in range(bulk)]
        # more than there are slots, so that some wait
        jobs += [_job("What is on it?", image=True) for _ in range(20)]
        jobs += [_job("Again?", lane="bulk", reuse=True) for _ in range(4)]
        jobs += [_job("An examplebadword?", metadata={"echo_fail": "BadImage"}) for _ in range(3)]
        jobs += [_fails("EngineError", attempts=2), _fails("EngineError", attempts=1)] * 2
        with ThreadPoolExecutor(4) as threads:
            asked = [threads.submit(self._ask, stream) for stream in (True, False, True, False)]
            ids = self.client.submit_many(jobs)
            dict(self.client.answers(ids, timeout_s=60))
            for each in asked:
                each.result()
        # those of before are answered now
        dict(self.client.answers(self.client.submit_many(_job("Again?", lane="bulk", reuse=True) for _ in range(4))))

    def _ask(self, stream: bool) -> None:
        body = {
            "model": "vqa",
            "messages": [{"role": "user", "content": "What is an examplebrand?"}],
            "max_tokens": 8,
            "stream": stream,
        }
        reply = httpx2.post(f"{self.gateway.url}/v1/chat/completions", json=body, timeout=60)
        assert reply.status_code == 200, reply.text


def _job(question: str, image: bool = False, **fields: object) -> Job:
    if image:
        return Job.about(_IMAGE, question, max_new_tokens=8, **fields)
    return Job(messages=[{"role": "user", "content": question}], max_new_tokens=8, **fields)


def _fails(error: str, attempts: int) -> Job:
    retry = RetryPolicy(attempts=attempts, base_s=0.1)
    return _job("Why?", metadata={"echo_fail": error, "echo_fail_attempts": "1"}, retry=retry)


@contextmanager
def running_system(folder: Path, interval: str) -> Iterator[System]:
    """Start Redis, two workers, a gateway and Prometheus; end them afterwards."""
    with ExitStack() as stack:
        # a limit, so that the share of it that is used has a value
        redis = stack.enter_context(RedisServer(folder / "redis", "maxmemory 256mb", "maxmemory-policy noeviction"))
        settings = QueueSettings(redis_url=redis.url)
        addresses = {name: f"127.0.0.1:{free_port()}" for name in _WORKERS}
        workers = []
        for name, variables in _WORKERS.items():
            variables = {"VQA_METRICS_ADDRESS": addresses[name], **variables}
            workers.append(WorkerProcess(redis.url, name, folder / f"{name}.log", **variables))
            stack.callback(workers[-1].stop)
        gateway = GatewayProcess(redis.url, folder / "gateway", VQA_GATEWAY_METRICS_KEY=_KEY, VQA_GATEWAY_OPEN="1")
        stack.callback(gateway.stop)
        key = folder / "key"
        key.write_text(_KEY)
        targets = {"vqa-workers": [*addresses.values()], "vqa-queue": [gateway.url.removeprefix("http://")]}
        prometheus = stack.enter_context(Prometheus(folder / "prometheus", targets, key, interval))
        with connect(settings) as connection:
            for worker in workers:
                worker.wait_ready(Ledger(connection), 120)
        client = stack.enter_context(Client(settings))
        yield System(client, gateway, prometheus)
