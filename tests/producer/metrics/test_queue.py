"""The queue's figures, as `vqa metrics` and the gateway show them, equal what Redis holds."""

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from redis import Redis

from producer import Client, Job
from producer.gateway.app import create_app
from producer.metrics.collector import queue_registry
from tests.metrics import Scrape
from tests.producer.gateway.gateway_process import GatewayProcess
from tests.redis_server import RedisServer
from tests.worker_process import ROOT, StartWorker
from vqa.gateway_settings import FilesSettings, GatewaySettings
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import Ending
from vqa.metrics.declared import QUEUE
from vqa.settings import QueueSettings

KEY = "a key for prometheus"
COMMAND = (sys.executable, "-W", "error", "-m", "producer.cli.main", "metrics", "--address", "127.0.0.1:0")


def job(**fields: object) -> Job:
    return Job(messages=[{"role": "user", "content": "What is it?"}], **fields)


def scrape(settings: QueueSettings) -> Scrape:
    return Scrape(generate_latest(queue_registry(settings)).decode())


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with Client(redis_url=redis_url) as client:
        yield client


def test_open_jobs_are_counted_by_lane_and_state(client: Client, redis: Redis, queue_settings: QueueSettings) -> None:
    bulk = client.submit_many([job(lane="bulk", tenant="a") for _ in range(70)])
    client.submit_many([job() for _ in range(3)])
    ledger = Ledger(redis)
    ledger.take(bulk[0], "w", "token-0", 60)
    ledger.take(bulk[1], "w", "token-1", 60)
    ledger.retry(bulk[1], "token-1", delay_s=60, error="EngineError: no")
    found = scrape(queue_settings)
    counts = {
        (lane, state): found.value("vqa_queue_jobs", lane=lane, model="", state=state)
        for lane in ("interactive", "bulk")
        for state in ("waiting", "queued", "leased", "delayed")
    }
    assert counts == {(lane, state): count for lane, own in ledger.counts().items() for state, count in own.items()}
    assert (counts["interactive", "queued"], counts["bulk", "leased"], counts["bulk", "delayed"]) == (3, 1, 1)
    assert counts["bulk", "waiting"] > 0
    for state in ("leased", "delayed"):
        assert found.value("vqa_queue_overdue_seconds", lane="bulk", model="", state=state) == 0


@pytest.mark.parametrize(
    ("key", "metric", "lane", "state"),
    [
        pytest.param("vqa:queued:bulk", "vqa_queue_oldest_seconds", "bulk", "queued", id="queued"),
        pytest.param("vqa:waiting:bulk:a", "vqa_queue_oldest_seconds", "bulk", "waiting", id="waiting"),
        pytest.param("vqa:leased:interactive", "vqa_queue_overdue_seconds", "interactive", "leased", id="leased"),
        pytest.param("vqa:delayed:bulk", "vqa_queue_overdue_seconds", "bulk", "delayed", id="delayed"),
    ],
)
def test_the_oldest_job_of_a_state_has_its_age(
    key: str, metric: str, lane: str, state: str, redis: Redis, queue_settings: QueueSettings
) -> None:
    seconds, _ = redis.time()
    redis.zadd(key, {"older": (seconds - 300) * 1000, "newer": seconds * 1000})
    if state == "waiting":
        redis.zadd("vqa:turns:bulk", {"b": 1, "a": 2})
        redis.zadd("vqa:waiting:bulk:b", {"another": (seconds - 100) * 1000})
    assert scrape(queue_settings).value(metric, lane=lane, model="", state=state) == pytest.approx(300, abs=5)


def test_what_is_due_later_is_not_late(redis: Redis, queue_settings: QueueSettings) -> None:
    seconds, _ = redis.time()
    redis.zadd("vqa:leased:bulk", {"id": (seconds + 60) * 1000})
    assert scrape(queue_settings).value("vqa_queue_overdue_seconds", lane="bulk", model="", state="leased") == 0


def test_workers_dead_letters_and_the_inbox_are_counted(
    client: Client, redis: Redis, queue_settings: QueueSettings, start_worker: StartWorker
) -> None:
    start_worker(VQA_SLOTS="3")
    Ledger(redis).dead_letter_message("id", "bulk", b"x", "malformed")
    Ledger(redis).renew("gone", [], 9, {"slots": 5})
    name, line = next((name, line) for name, line in redis.hgetall("vqa:workers").items() if name == b"gone")
    # a minute later the worker that is up would forget it
    seen = b'"seen":%d' % ((redis.time()[0] - 30) * 1000)
    redis.hset("vqa:workers", name, re.sub(rb'"seen":\d+[\d.e+]*', seen, line))
    found = scrape(queue_settings)
    assert found.value("vqa_workers", state="ready") == 1
    assert found.value("vqa_workers", state="vanished") == 1
    assert found.value("vqa_queue_slots") == 3
    assert found.value("vqa_dead_letters") == 1
    assert found.value("vqa_inbox_entries") == 0
    assert (found.value("vqa_redis_memory_bytes") or 0) > 100_000


def test_every_metric_of_the_queue_is_shown_with_declared_labels(redis: Redis, queue_settings: QueueSettings) -> None:
    found = scrape(queue_settings)
    declared = {metric.name: metric for metric in QUEUE}
    assert found.names == {*declared}
    for name, labels in found.samples:
        assert {label for label, _ in labels} == {*declared[name].labels}
        assert found.declared[name] == (declared[name].kind, declared[name].help)


def test_jobs_of_a_served_model_are_counted_under_its_name_and_all_others_together(
    redis: Redis, queue_settings: QueueSettings
) -> None:
    ledger = Ledger(redis)
    ledger.renew("w", [], 9, {"slots": 1, "models": ["org/red"]}, ["org/red"])
    seconds, _ = redis.time()
    redis.zadd("vqa:models:open", {"org/red": 1, "gone": 1, "made-up": 1, "not a model\n": 1})
    for number, queue in enumerate(("bulk.org/red", "bulk.gone", "bulk.made-up", "bulk"), start=1):
        redis.zadd(f"vqa:queued:{queue}", {f"{each}": (seconds - 100 * number) * 1000 for each in range(number)})
    found = scrape(queue_settings)
    counts = {
        labels["model"]: found.value("vqa_queue_jobs", **labels)
        for labels in found.labels("vqa_queue_jobs")
        if (labels["lane"], labels["state"]) == ("bulk", "queued")
    }
    assert counts == {"": 4, "org/red": 1, "(other)": 5}
    for model, age_s in {"": 400, "org/red": 100, "(other)": 300}.items():
        age = found.value("vqa_queue_oldest_seconds", lane="bulk", model=model, state="queued")
        assert age == pytest.approx(age_s, abs=5)


def test_models_beyond_the_first_fifty_are_counted_together(redis: Redis, queue_settings: QueueSettings) -> None:
    names = [f"model-{number:03}" for number in range(60)]
    Ledger(redis).renew("w", [], 9, {"slots": 1}, names)
    redis.zadd("vqa:queued:bulk.model-059", {"id": 1})
    found = scrape(queue_settings)
    assert {labels["model"] for labels in found.labels("vqa_queue_jobs")} == {"", *names[:50], "(other)"}
    assert found.value("vqa_queue_jobs", lane="bulk", model="(other)", state="queued") == 1


def test_the_newest_dead_letters_are_counted_by_the_code_of_their_last_error(
    client: Client, redis: Redis, queue_settings: QueueSettings
) -> None:
    ledger = Ledger(redis)
    errors = ["EngineError: no", "EngineError: out of memory", "ImageUnavailable: 503", "WorkerLost: gone", "Odd: x"]
    # the first is older than the newest hundred
    for number, error in enumerate(["BadImage: old", *["ImageUnavailable: 503"] * 94, *errors]):
        [id] = client.submit_many([job(lane="bulk")])
        ledger.take(id, "w", f"token-{number}", 60)
        ledger.close(Ending(id, f"token-{number}", b"outcome", 60, "attempts_used_up", error))
    ledger.dead_letter_message("id", "bulk", b"x" * 70_000, "malformed: no JSON")
    found = scrape(queue_settings)
    codes = {
        labels["code"]: found.value("vqa_dead_letters_newest", **labels)
        for labels in found.labels("vqa_dead_letters_newest")
    }
    assert codes == {
        "image_unavailable": 95,
        "engine_error": 2,
        "worker_lost": 1,
        "malformed": 1,
        # a class that is none of ours has its dead letter's reason
        "attempts_used_up": 1,
    }
    assert found.value("vqa_dead_letters") == 101


@pytest.mark.parametrize(
    "key", ["vqa:queued:bulk", "vqa:turns:bulk", "vqa:dead", "vqa:workers", "vqa:inbox", "vqa:models"]
)
def test_a_damaged_key_hides_only_its_own_figures(key: str, redis: Redis, queue_settings: QueueSettings) -> None:
    redis.set(key, "of another program")
    found = scrape(queue_settings)
    assert found.value("vqa_up") == 1
    assert found.value("vqa_queue_jobs", lane="interactive", model="", state="queued") == 0


def test_without_redis_the_queue_is_down_and_nothing_else_is_said(caplog: pytest.LogCaptureFixture) -> None:
    settings = QueueSettings(redis_url="redis://127.0.0.1:1/0")
    found = scrape(settings)
    assert found.value("vqa_up") == 0
    assert found.names == {"vqa_up", "vqa_build_info"}
    assert caplog.text.count("waiting for") == 1
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)], ids=["ctrl-c", "sigterm"])
def test_the_command_follows_redis_and_ends_cleanly(number: int, status: int, tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        environment = {**os.environ, "VQA_REDIS_URL": server.url}
        process = subprocess.Popen(
            COMMAND, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            assert Scrape.of(url).value("vqa_up") == 1
            server.stop()
            assert Scrape.of(url).value("vqa_up") == 0
        finally:
            process.send_signal(number)
            _, said = process.communicate(timeout=30)
    assert process.returncode == status
    assert "Traceback" not in said


@pytest.mark.parametrize("address", ["9109", "127.0.0.1:x"])
def test_a_wrong_address_is_a_mistake_in_the_command(address: str) -> None:
    done = subprocess.run([*COMMAND[:-1], address], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 2
    assert "--address" in done.stderr
    assert "Traceback" not in done.stderr


def status_of(url: str, key: str = "") -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_the_gateway_shows_metrics_to_the_operators_key_alone(redis_url: str, client: Client, tmp_path: Path) -> None:
    client.submit(job())
    made = [sys.executable, "-m", "producer.cli.main", "keys", "create", "--name", "tenant", "--json"]
    environment = {**os.environ, "VQA_REDIS_URL": redis_url}
    said = subprocess.run(
        made, env=environment, capture_output=True, text=True, cwd=ROOT, timeout=60, check=True
    ).stdout
    tenant = re.search(r"\bvqa_[\w-]{20,}", said)
    assert tenant
    gateway = GatewayProcess(redis_url, tmp_path / "gateway", VQA_GATEWAY_METRICS_KEY=KEY)
    try:
        url = f"{gateway.url}/metrics"
        assert [status_of(url, key) for key in ("", "wrong", tenant[0])] == [401, 401, 401]
        found = Scrape.of(url, KEY)
        assert found.value("vqa_queue_jobs", lane="interactive", model="", state="queued") == 1
        assert found.names == {metric.name for metric in QUEUE}
    finally:
        gateway.stop()


def test_a_gateway_without_the_key_has_no_metrics(redis_url: str) -> None:
    app = create_app(QueueSettings(redis_url=redis_url), GatewaySettings(), FilesSettings())
    assert "/metrics" not in {getattr(route, "path", "") for route in app.routes}
