"""A job's whole trace, exported by real processes to a real receiver of OTLP."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from redis import Redis

from producer import Client
from tests.e2e.conftest import until
from tests.otlp import OtlpReceiver, ReceivedSpan
from tests.producer.gateway.gateway_process import GatewayProcess
from tests.producer.gateway.webhooks.receiver import SECRET, Receiver
from tests.redis_server import RedisServer
from tests.worker_process import WorkerProcess
from vqa.ledger.ledger import Ledger
from vqa.redis.connection import connect
from vqa.settings import QueueSettings

QUESTION = "a question that no span may tell"
CALLER = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
WEBHOOKS = {"VQA_GATEWAY_WEBHOOK_PRIVATE": "1", "VQA_GATEWAY_WEBHOOK_SECRET": SECRET}


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture(scope="module")
def ledger(server_url: str) -> Iterator[Ledger]:
    with connect(QueueSettings(redis_url=server_url)) as connection:
        yield Ledger(connection)


@pytest.fixture(scope="module")
def workers(
    server_url: str, receiver: OtlpReceiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[WorkerProcess]]:
    """Two traced workers that log JSON, of which a test kills one; they may not be ready yet."""
    folder = tmp_path_factory.mktemp("workers")
    settings = {"VQA_LOG_FORMAT": "json", "VQA_LEASE_S": "2", **receiver.variables}
    started = [WorkerProcess(server_url, name, folder / f"{name}.log", **settings) for name in ("one", "two")]
    try:
        yield started
    finally:
        for worker in started:
            worker.stop()


@pytest.fixture(scope="module", autouse=True)
def unsampled(
    server_url: str, receiver: OtlpReceiver, workers: list[WorkerProcess], tmp_path_factory: pytest.TempPathFactory
) -> Iterator["Submission"]:
    """Rows of a client that records nothing; begun before all tests, so that no span of theirs is on its way later."""
    folder = tmp_path_factory.mktemp("unsampled")
    submission = Submission(server_url, folder, receiver, OTEL_TRACES_SAMPLER="always_off")
    with submission.process:
        yield submission
        submission.process.kill()


@pytest.fixture(scope="module")
def gateway(
    server_url: str,
    receiver: OtlpReceiver,
    workers: list[WorkerProcess],
    ledger: Ledger,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[GatewayProcess]:
    """A traced gateway, with both workers ready."""
    folder = tmp_path_factory.mktemp("gateway")
    settings = {"VQA_LOG_FORMAT": "json", "VQA_LEASE_S": "2", **WEBHOOKS, **receiver.variables}
    gateway = GatewayProcess(server_url, folder, **settings)
    try:
        for worker in workers:
            worker.wait_ready(ledger)
        gateway.wait_ready()
        yield gateway
    finally:
        gateway.stop()


def named(spans: list[ReceivedSpan], pattern: str) -> list[ReceivedSpan]:
    return [span for span in spans if re.fullmatch(pattern, span.name)]


def ask(gateway: GatewayProcess, **fields: object) -> httpx2.Response:
    body = {"model": "echo", "messages": [{"role": "user", "content": QUESTION}], **fields}
    headers = {"traceparent": f"00-{CALLER[0]}-{CALLER[1]}-01"}
    return httpx2.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=60)


def test_the_trace_of_a_job_whose_worker_was_killed_is_whole(
    server_url: str, gateway: GatewayProcess, workers: list[WorkerProcess], receiver: OtlpReceiver
) -> None:
    reply = ask(gateway, metadata={"echo_fail": "exit", "echo_fail_attempts": "1"})
    assert reply.status_code == 200, reply.text
    spans = receiver.wait(lambda found: bool(named(found, "receive answer")), trace_id=CALLER[0])
    spans = receiver.wait(lambda found: len(named(found, "process interactive")) == 2, trace_id=CALLER[0])
    spans = receiver.wait(lambda found: bool(named(found, "POST .*")), trace_id=CALLER[0])

    [request] = named(spans, "POST /v1/chat/completions")
    assert (request.parent_id, request.kind, request.service) == (CALLER[1], "server", "vqa-gateway")
    assert request.attributes["http.response.status_code"] == 200
    [sent] = named(spans, "send interactive")
    assert (sent.parent_id, sent.kind) == (request.span_id, "producer")

    lost, answered = named(spans, "process interactive")
    assert {lost.parent_id, answered.parent_id} == {sent.span_id}
    assert lost.failed
    assert lost.attributes["error.type"] == "worker_lost"
    assert not answered.failed
    assert answered.links == [(CALLER[0], lost.span_id)]
    assert (lost.attributes["vqa.attempt"], answered.attributes["vqa.attempt"]) == (1, 2)
    assert lost.attributes["vqa.worker"] != answered.attributes["vqa.worker"]
    assert lost.start < lost.end <= answered.start

    [chat] = named(spans, "chat echo")
    assert chat.parent_id == answered.span_id
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "echo",
        "gen_ai.response.model": "echo",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.output_tokens": 1,
    }
    assert chat.attributes.items() >= expected.items()
    children = {span.name for span in spans if span.parent_id == answered.span_id}
    assert children >= {"media", "chat echo", "settle interactive"}
    assert named(spans, "decode")[0].parent_id == chat.span_id
    assert len(named(spans, "queue interactive")) == 2
    assert named(spans, "receive answer")[0].parent_id == sent.span_id

    # the whole: every span's parent is there, and nothing that anybody has written
    ids = {span.span_id for span in spans}
    assert {span.parent_id for span in spans} - ids == {CALLER[1]}
    assert len(ids) == len(spans)
    answer = reply.json()["choices"][0]["message"]["content"]
    assert not any(QUESTION in span.text or answer in span.text for span in spans)

    with Client(redis_url=server_url) as client:
        timeline = client.timeline(reply.json()["id"])
    assert timeline.trace_id == CALLER[0]
    assert [re.sub(" on .*@.*", "", event.what) for event in timeline.events] == [
        "accepted on interactive",
        "attempt 1",
        "attempt 1 ended: WorkerLost: its lease ran out",
        "attempt 2",
        "answered (stop): 7 tokens of prompt, 1 of answer",
    ]


def test_a_webhook_is_delivered_in_the_trace_of_its_request(gateway: GatewayProcess, receiver: OtlpReceiver) -> None:
    with Receiver() as hook:
        reply = ask(gateway, vqa={"webhook": {"url": f"{hook.url}?token=secret"}})
        assert reply.status_code == 200, reply.text
        [received] = hook.wait(1)

        def of_event(spans: list[ReceivedSpan]) -> list[ReceivedSpan]:
            return [span for span in spans if span.attributes.get("vqa.webhook.event") == received.id]

        [delivered] = of_event(receiver.wait(lambda found: bool(of_event(found)), trace_id=CALLER[0]))
    spans = receiver.wait(lambda found: any(span.span_id == delivered.parent_id for span in found), trace_id=CALLER[0])
    [request] = [span for span in spans if span.span_id == delivered.parent_id]
    assert (request.name, delivered.kind) == ("POST /v1/chat/completions", "client")
    assert delivered.attributes["messaging.message.id"] == reply.json()["id"]
    assert delivered.attributes["http.response.status_code"] == 204
    assert "secret" not in delivered.text


class Submission:
    """`vqa submit` of two rows."""

    def __init__(self, server_url: str, folder: Path, receiver: OtlpReceiver, **variables: str) -> None:
        self.out = folder / "out.jsonl"
        body = {"model": "echo", "messages": [{"role": "user", "content": QUESTION}]}
        about = {"method": "POST", "url": "/v1/chat/completions", "body": body}
        rows = [{"custom_id": str(number), **about} for number in range(2)]
        (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = ["submit", str(folder / "in.jsonl"), "-o", str(self.out), "--quiet"]
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "producer.cli.main", *command],
            env={**os.environ, "VQA_REDIS_URL": server_url, **receiver.variables, **variables},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def batch(self) -> str:
        """Wait until the rows are answered; return the id of their batch."""
        _, error = self.process.communicate(timeout=100)
        assert self.process.returncode == 0, error
        return str(json.loads((self.out.parent / "out.jsonl.batch").read_text())["batch"])


def of_batch(spans: list[ReceivedSpan], batch: str) -> list[ReceivedSpan]:
    return [span for span in spans if span.attributes.get("vqa.batch.id") == batch]


def test_rows_have_a_trace_each_and_the_sampler_of_the_client_decides_for_all_processes(
    server_url: str, unsampled: Submission, receiver: OtlpReceiver, tmp_path: Path
) -> None:
    without = unsampled.batch()
    batch = Submission(server_url, tmp_path, receiver).batch()
    spans = receiver.wait(lambda found: len(named(of_batch(found, batch), "process bulk")) == 2)
    sent, processed = named(of_batch(spans, batch), "send bulk"), named(of_batch(spans, batch), "process bulk")
    assert len({span.trace_id for span in sent}) == 2
    assert {span.trace_id: span.span_id for span in sent} == {span.trace_id: span.parent_id for span in processed}
    assert {span.parent_id for span in sent} == {""}
    # exported earlier, if they were
    assert of_batch(spans, without) == []


def test_log_lines_are_json_with_the_job_and_its_trace(
    gateway: GatewayProcess, workers: list[WorkerProcess], redis: Redis
) -> None:
    reply = ask(gateway, metadata={"echo_fail": "EngineError", "echo_fail_attempts": "1"})
    line = gateway.wait_logged(reply.headers["X-Request-ID"])
    assert line["trace_id"] == CALLER[0]
    assert line["message"] == "POST /v1/chat/completions 200"

    def lines() -> list[dict[str, object]]:
        # either of them may be the one that another test has killed
        return [json.loads(each) for worker in workers for each in worker.log.read_text().splitlines()]

    until(lambda: any(each.get("job_id") == line["job_id"] for each in lines()))
    for each in (*lines(), *(json.loads(text) for text in gateway.log.read_text().splitlines())):
        assert each.keys() >= {"time", "level", "logger", "message"}
        assert QUESTION not in json.dumps(each)
    assert any(str(each.get("worker", "")).startswith(("one@", "two@")) for each in lines())
