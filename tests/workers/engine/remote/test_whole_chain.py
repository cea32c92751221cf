"""Client, worker, gateway, worker with the bundled model: two queues, one behind the other."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import Celery
from PIL import Image
from redis import Redis

from producer import Client
from tests.producer.gateway.gateway_process import GatewayProcess
from tests.redis_server import RedisServer
from tests.worker_process import TINY, StartWorker, WorkerProcess
from tests.workers.engine.remote.chat_server import MODEL, refuses, streams
from tests.workers.engine.remote.conftest import StartServer
from vqa.jobs.job import Job
from vqa.ledger.ledger import Ledger
from vqa.redis.connection import connect
from vqa.settings import QueueSettings

QUESTION = "What colour is the circle?"


@pytest.fixture(scope="module")
def far_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway before a worker with the bundled model, on a Redis of its own."""
    folder = tmp_path_factory.mktemp("far")
    (folder / "redis").mkdir()
    with RedisServer(folder / "redis") as server, connect(QueueSettings(redis_url=server.url)) as connection:
        model = {"VQA_ENGINE": "continuous", "VQA_MODEL": str(TINY), "VQA_SLOTS": "4", "OMP_NUM_THREADS": "1"}
        worker = WorkerProcess(server.url, "far", folder / "log", **model)
        gateway = GatewayProcess(server.url, folder / "gateway")
        try:
            worker.wait_ready(Ledger(connection), 100)
            gateway.wait_ready()
            yield gateway
        finally:
            gateway.stop()
            worker.stop()


@pytest.mark.timeout(200)
def test_jobs_pass_through_two_queues(
    far_gateway: GatewayProcess, redis_url: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    image = tmp_path / "image.png"
    Image.new("RGB", (200, 120), "red").save(image)
    near = start_worker("near", VQA_ENGINE="remote", VQA_REMOTE_URLS=far_gateway.url)
    with Client(redis_url=redis_url) as client:
        jobs = [Job.about(image, QUESTION, max_new_tokens=8) for _ in range(12)]
        answers = [client.answer(id, 60) for id in client.submit_many(jobs)]
        structured = client.ask(image, QUESTION, response_format={"type": "choice", "choices": ["red", "blue"]})
        scored = client.ask(image, QUESTION, logprobs=True, top_logprobs=2, max_new_tokens=8)
    [text] = {answer.text for answer in answers}
    assert text
    assert {(answer.model, answer.attempt) for answer in answers} == {("tiny-vl", 1)}
    assert answers[0].usage.prompt_tokens > 10
    assert structured.parsed in {"red", "blue"}
    assert scored.logprobs is not None
    assert len(scored.logprobs[0].top_logprobs) == 2
    loaded = Path(f"/proc/{near.process.pid}/maps").read_text()
    assert "libtorch" not in loaded


@pytest.mark.timeout(120)
def test_jobs_wait_in_the_queue_while_no_server_answers(
    start_server: StartServer, redis: Redis, redis_url: str, start_worker: StartWorker, app: Celery
) -> None:
    server = start_server(streams("two"))
    start_worker("near", VQA_ENGINE="remote", VQA_REMOTE_URLS=server.url)
    with Client(redis_url=redis_url) as client:
        assert client.answer(client.submit(_job()), 30).text == "two"
        server.models = server.script[0] = refuses(401)
        ids = client.submit_many([_job() for _ in range(20)])
        # a few were under way; they return, and no message is popped any more
        _wait(lambda: not any(lane["leased"] for lane in Ledger(redis).counts().values()), 30)
        server.models = server._list([MODEL], "vllm")
        server.script[0] = streams("two")
        answers = [client.answer(id, 60) for id in ids]
    assert {(answer.text, answer.attempt) for answer in answers} == {("two", 1)}


def _job() -> Job:
    return Job(messages=[{"role": "user", "content": "how many?"}], timeout_s=100)


def _wait(done: Callable[[], bool], timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < until
        time.sleep(0.05)
