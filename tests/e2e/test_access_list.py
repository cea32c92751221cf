"""deploy/redis-users.conf: everything works under it, and each user may do what it is for and no more."""

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest
import requests
from redis import Redis
from redis.exceptions import NoPermissionError, RedisError

from producer import Client
from producer.demo.redis_server import free_port
from tests.producer.gateway.gateway_process import GatewayProcess
from tests.redis_server import RedisServer
from tests.worker_process import ROOT, WorkerProcess
from vqa import Answer, Cancelled, DeadlineExceeded, Job, JobGivenUp, RetryPolicy
from vqa.ledger.ledger import Ledger

IMAGE = ROOT / "examples" / "images"
PASSWORDS = {user: f"{user}-password" for user in ("operator", "producer", "worker", "flower", "inbox", "gateway")}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    rules = (ROOT / "deploy" / "redis-users.conf").read_text()
    for user, password in PASSWORDS.items():
        rules = re.sub(rf"\b{user.upper()}_PASSWORD\b", password, rules)
    with RedisServer(tmp_path_factory.mktemp("redis"), "enable-debug-command yes", *rules.splitlines()) as server:
        yield server


def _url(server: RedisServer, user: str) -> str:
    return f"redis://vqa-{user}:{PASSWORDS[user]}@127.0.0.1:{server.port}/0"


@pytest.fixture
def login(server: RedisServer) -> Iterator[Callable[[str], Redis]]:
    """A connection as one of the users."""
    with ExitStack() as connections:
        yield lambda user: connections.enter_context(Redis.from_url(_url(server, user)))


Login = Callable[[str], Redis]


Work = Callable[..., WorkerProcess]


@pytest.fixture
def work(server: RedisServer, login: Login, tmp_path: Path) -> Iterator[Work]:
    """Start a worker as the user of workers; it ends with the test."""
    with ExitStack() as started:

        def start(name: str, **variables: str) -> WorkerProcess:
            log = tmp_path / f"{name}.log"
            worker = WorkerProcess(_url(server, "worker"), name, log, **{"VQA_LEASE_S": "2"} | variables)
            started.callback(worker.stop)
            worker.wait_ready(Ledger(login("operator")))
            return worker

        yield start


@pytest.fixture
def flower(server: RedisServer, tmp_path: Path) -> Iterator[str]:
    port = free_port()
    own = {"VQA_REDIS_URL": _url(server, "flower"), "VQA_FLOWER_PASSWORD": "password", "VQA_FLOWER_PORT": str(port)}
    with (tmp_path / "flower.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "producer.monitor.flower"], env=os.environ | own, cwd=ROOT, stdout=log, stderr=log
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _refusals(operator: Redis) -> list[str]:
    """What Redis refused since its log was reset, as `user: command or key`."""
    entries = cast(list[dict[str, Any]], operator.acl_log())
    return [f"{entry['username']}: {entry['object']}" for entry in entries]


def _soon(true: Callable[[], bool], timeout_s: float = 60) -> None:
    until = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < until
        time.sleep(0.1)


def _job(seconds: float = 0, **fields: Any) -> Job:
    metadata = {"echo_delay_s": str(seconds)} | fields.pop("metadata", {})
    return Job(messages=[{"role": "user", "content": "?"}], metadata=metadata, **fields)


def _ask_all_ways(client: Client) -> None:
    assert client.ask(next(IMAGE.glob("*.*")), "?").text
    # so many that some wait for their turn
    ids = client.submit_many(_job(lane="bulk", tenant="one") for _ in range(100))
    assert {id for id, _ in client.answers(ids)} == set(ids)
    batch = client.batches.create([_job(id="row")])
    assert batch.wait(timeout_s=60).status == "completed"
    assert [result.custom_id for result in batch.results()] == ["row"]
    late = client.batches.create([_job(60)])
    assert late.cancel() == 1
    assert {late.id, batch.id} <= {state.id for state in client.batches.list()}
    assert client.states(ids[:1])[ids[0]].state == "answered"
    assert len(client.workers()) == 1
    named = client.answer(client.submit(_job(model="echo")))
    assert [model.name for model in client.models.list()] == [named.model] == ["echo"]
    assert not client.models.remove_canary("echo")
    assert client.counts()["bulk"]["queued"] == 0
    running = client.submit(_job(seconds=60))
    _soon(lambda: client.states([running])[running].state == "leased")
    assert client.cancel(running)
    with pytest.raises(Cancelled):
        client.answer(running)
    with pytest.raises(DeadlineExceeded):
        client.answer(client.submit(_job(seconds=60, timeout_s=0.5)))
    assert len(list(client.stream(_job(0.5)))) > 1
    for _ in client.stream(_job(60)):
        break


def _look_and_revoke(flower: str, client: Client) -> None:
    def asks(path: str) -> Any:
        return requests.get(f"{flower}/api/{path}", auth=("vqa", "password"), timeout=30).json()

    def sees_a_worker() -> bool:
        try:
            return any("broker_url" in worker.get("conf", {}) for worker in asks("workers?refresh=1").values())
        except (requests.ConnectionError, requests.Timeout):
            return False

    _soon(sees_a_worker)
    assert PASSWORDS["worker"] not in str(asks("workers?refresh=1"))
    # the worker's own model has queues, too
    queues = {"interactive", "bulk", "celery", "interactive.echo", "bulk.echo"}
    assert {queue["name"] for queue in asks("queues/length")["active_queues"]} == queues
    running = client.submit(_job(seconds=60))
    _soon(lambda: running in asks("tasks"))
    requests.post(f"{flower}/api/task/revoke/{running}?terminate=true", auth=("vqa", "password"), timeout=30)
    with pytest.raises(Cancelled):
        client.answer(running, timeout_s=60)


def _submit_a_file(server: RedisServer, folder: Path) -> None:
    body = {"messages": [{"role": "user", "content": "?"}]}
    row = {"custom_id": "row", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\nno row\n")

    def vqa(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"VQA_REDIS_URL": _url(server, "producer")}
        command = [sys.executable, "-m", "producer.cli.main", *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)

    assert vqa("submit", "rows.jsonl", "-o", "out.jsonl", "--reuse").returncode == 3
    batch = vqa("submit", "rows.jsonl", "--detach").stdout.strip()
    assert vqa("collect", batch, "-o", "collected.jsonl").returncode == 0
    states = [json.loads(line) for line in vqa("batches", "--json", "--limit", "2").stdout.splitlines()]
    assert [(state["status"], state["completed"], state["failed"]) for state in states] == [("completed", 1, 1)] * 2
    assert vqa("cancel", batch).returncode == 3


def _give_up_and_retry(client: Client, operator: Redis) -> None:
    given_up = client.submit(_job(retry=RetryPolicy(attempts=1), metadata={"echo_fail": "EngineError"}))
    with pytest.raises(JobGivenUp):
        client.answer(given_up)
    operator.lpush("interactive", "no message")
    _soon(lambda: client.dead_letters.count() == 2)
    assert given_up in [letter.id for letter in client.dead_letters.list()]
    assert client.dead_letters.retry([given_up]) == {given_up: "reopened"}
    with pytest.raises(JobGivenUp):
        client.answer(given_up)
    assert client.dead_letters.purge([letter.id for letter in client.dead_letters.list()]) == 2


def _use_the_inbox(foreign: Redis) -> None:
    image = (IMAGE / "shape-07.png").read_bytes()
    reference = "sha256:" + hashlib.sha256(image).hexdigest()
    foreign.set(f"vqa:image:{reference}", image, nx=True, ex=3600)
    foreign.expire(f"vqa:image:{reference}", 3600, gt=True)
    good = {"id": "good", "messages": [{"role": "user", "content": [{"type": "image", "image": reference}]}]}
    for job in (good, {"id": "bad", "messages": []}):
        foreign.xadd("vqa:inbox", {"job": json.dumps(job), "reply": "vqa:reply:foreign"})
    for _ in range(2):
        assert foreign.blpop(["vqa:reply:foreign"], 60)
    assert b"SUCCESS" in cast(bytes, foreign.get("celery-task-meta-good"))
    assert b"InvalidJob" in cast(bytes, foreign.get("celery-task-meta-bad"))
    _soon(lambda: foreign.xlen("vqa:inbox") == 0)
    assert b"bad" in str(foreign.xrange("vqa:outbox")).encode()


def _leave_jobs_behind(client: Client, work: Work) -> None:
    stopped = work("stopped", VQA_SLOTS="1", VQA_DRAIN_S="1")
    ids = client.submit_many(_job(seconds=3) for _ in range(4))
    _soon(lambda: "stopped@" in str(client.states(ids)))
    # what it holds goes back, and messages that no thread has begun
    assert stopped.stop() == 0
    killed = work("killed", VQA_SLOTS="1")
    _soon(lambda: "killed@" in str(client.states(ids)))
    killed.kill()
    work("last")
    assert {id for id, outcome in client.answers(ids) if isinstance(outcome, Answer)} == set(ids)


# four workers, Flower and five commands start one after another
@pytest.mark.timeout(300)
def test_producer_worker_and_flower_work_with_these_rights_and_try_nothing_else(
    server: RedisServer, login: Login, work: Work, flower: str, tmp_path: Path
) -> None:
    operator = login("operator")
    operator.acl_log_reset()
    worker = work("worker")
    with Client(redis_url=_url(server, "producer")) as client:
        _ask_all_ways(client)
        _submit_a_file(server, tmp_path)
        _give_up_and_retry(client, operator)
        _look_and_revoke(flower, client)
        _use_the_inbox(login("inbox"))
        assert "Control command error" not in worker.log.read_text()
        assert worker.stop() == 0
        _leave_jobs_behind(client, work)
    assert _refusals(operator) == []


def _use_the_gateway(url: str, key: str) -> None:
    chat = {"messages": [{"role": "user", "content": "?"}]}
    row = {"custom_id": "row", "method": "POST", "url": "/v1/chat/completions", "body": chat}
    # nobody listens there: it is tried again later
    hook = {"webhook": {"url": f"http://127.0.0.1:{free_port()}/"}}
    with requests.Session() as http:
        http.headers["Authorization"] = f"Bearer {key}"

        def call(method: str, path: str, **parts: Any) -> Any:
            reply = http.request(method, f"{url}{path}", timeout=30, **parts)
            assert reply.ok, reply.text
            return reply

        image = call("POST", "/v1/images", files={"file": next(IMAGE.glob("*.*")).read_bytes()}).json()["id"]
        assert call("POST", "/v1/ask", files={"image": (None, image), "question": (None, "?")}).ok
        assert "[DONE]" in call("POST", "/v1/chat/completions", json=chat | {"stream": True}).text
        call("POST", "/v1/chat/completions", json=chat | {"vqa": {"reuse": True}}, headers={"Idempotency-Key": "a"})
        call("POST", "/v1/chat/completions", json=chat | {"model": "vqa-echo"})
        later = chat | {"metadata": {"echo_delay_s": "60"}, "vqa": hook}
        job = call("POST", "/v1/chat/completions", json=later, headers={"Prefer": "respond-async"}).json()["id"]
        call("GET", f"/v1/jobs/{job}")
        call("DELETE", f"/v1/jobs/{job}")
        rows = {"file": ("rows.jsonl", json.dumps(row)), "purpose": (None, "batch")}
        file = call("POST", "/v1/files", files=rows).json()["id"]
        made = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h", "vqa": hook}
        batch, late = (call("POST", "/v1/batches", json=made).json()["id"] for _ in range(2))
        call("POST", f"/v1/batches/{late}/cancel")
        _soon(lambda: call("GET", f"/v1/batches/{batch}").json()["status"] == "completed")
        output = call("GET", f"/v1/batches/{batch}").json()["output_file_id"]
        assert call("GET", f"/v1/files/{output}/content").text.count("\n") == 1
        for path in (
            "/v1/batches",
            "/v1/files",
            "/v1/models",
            "/v1/status",
            f"/v1/images/{image}",
            f"/v1/files/{file}",
        ):
            call("GET", path)
        for path in (f"/v1/images/{image}", f"/v1/files/{file}"):
            call("DELETE", path)


def test_a_gateway_works_with_its_rights_and_tries_nothing_else(
    server: RedisServer, login: Login, work: Work, tmp_path: Path
) -> None:
    operator = login("operator")
    operator.acl_log_reset()
    work("worker")

    def keys(*arguments: str) -> str:
        command = [sys.executable, "-m", "producer.cli.main", "keys", *arguments]
        environment = os.environ | {"VQA_REDIS_URL": _url(server, "gateway")}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    limits = [f"--{of}-per-{time}=1000000" for of in ("requests", "tokens") for time in ("minute", "day")]
    made = json.loads(keys("create", "--name", "test", "--json", "--in-flight", "9", *limits))
    settings = {"VQA_GATEWAY_TEST_MODELS": "1", "VQA_GATEWAY_WEBHOOK_PRIVATE": "1"}
    gateway = GatewayProcess(_url(server, "gateway"), tmp_path / "gateway", **settings)
    try:
        gateway.wait_ready()
        _use_the_gateway(gateway.url, made["key"])
    finally:
        assert gateway.stop() == 0
    keys("revoke", made["id"])
    assert _refusals(operator) == []


def test_a_rollout_is_for_the_user_of_workers(server: RedisServer, login: Login, work: Work) -> None:
    worker = work("only")
    for user, named in (
        ("worker", f"NotReady: only@{socket.gethostname()}: rollout is refused: this worker has no supervisor"),
        ("producer", f"QueueUnavailable: Redis at 127.0.0.1:{server.port} does not let this user do what vqa needs"),
        ("flower", f"QueueUnavailable: Redis at 127.0.0.1:{server.port} does not let this user do what vqa needs"),
    ):
        login("operator").acl_log_reset()
        said = subprocess.run(
            [sys.executable, "-m", "producer.cli.main", "rollout", "--model", "org/new", "--allow-gap"],
            env=os.environ | {"VQA_REDIS_URL": _url(server, user)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert f"vqa: {named}" in said.stderr
        assert bool(_refusals(login("operator"))) == (user != "worker")
    assert worker.process.poll() is None


def test_doctor_examines_and_repairs_as_a_worker(server: RedisServer, login: Login) -> None:
    login("operator").acl_log_reset()
    command = [sys.executable, "-m", "producer.cli.main", "doctor", "--repair"]
    environment = os.environ | {"VQA_REDIS_URL": _url(server, "worker")}
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert "redis" in said.stdout
    assert said.stderr == ""
    # whether the append-only file is synced is then not known
    assert set(_refusals(login("operator"))) <= {"vqa-worker: config|get"}


ANYBODY = [
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("CONFIG", "GET", "*"),
    ("CONFIG", "SET", "maxmemory", "1"),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("RANDOMKEY",),
    ("DEBUG", "SLEEP", "0"),
    ("MONITOR",),
    ("SHUTDOWN",),
    ("ACL", "LIST"),
    ("CLIENT", "LIST"),
    ("SAVE",),
    ("REPLICAOF", "NO", "ONE"),
    ("SCRIPT", "FLUSH"),
    ("SWAPDB", "0", "1"),
    ("SELECT", "1"),
    ("GET", "other:key"),
    ("SET", "other:key", "1"),
    ("PUBLISH", "other", "1"),
]
PRODUCER = [
    ("LRANGE", "interactive", "0", "-1"),
    ("BRPOP", "interactive", "1"),
    ("DEL", "interactive"),
    ("LPUSH", "celery", "{}"),
    ("HGETALL", "unacked"),
    ("SADD", "_kombu.binding.celery", "x"),
    ("SUBSCRIBE", "celery-task-meta-x"),
    ("PUBLISH", "/0.celery.pidbox", "{}"),
]
INBOX = [
    ("INFO",),
    ("EVAL", "return 1", "0"),
    ("GET", "vqa:job:x"),
    ("XRANGE", "vqa:inbox", "-", "+"),
    ("XREADGROUP", "GROUP", "vqa", "x", "STREAMS", "vqa:inbox", ">"),
    ("XDEL", "vqa:inbox", "1-1"),
    ("XTRIM", "vqa:inbox", "MAXLEN", "0"),
    ("XADD", "vqa:outbox", "*", "a", "b"),
    ("GET", "vqa:image:sha256:x"),
    ("SET", "vqa:image:sha256:x", "1", "GET"),
    ("SET", "celery-task-meta-x", "{}"),
    ("SET", "vqa:job:x", "{}"),
    ("DEL", "vqa:inbox"),
    ("LPUSH", "interactive", "{}"),
]
FLOWER = [
    ("INFO",),
    ("GET", "vqa:job:x"),
    ("GET", "celery-task-meta-x"),
    ("LPUSH", "interactive", "{}"),
    ("LRANGE", "interactive", "0", "-1"),
    ("SUBSCRIBE", "celery-task-meta-x"),
]


@pytest.mark.parametrize(
    ("user", "command"),
    [(user, command) for user in ("producer", "worker", "flower", "inbox", "gateway") for command in ANYBODY]
    + [("producer", command) for command in PRODUCER]
    + [("inbox", command) for command in INBOX]
    + [("gateway", command) for command in PRODUCER]
    + [("flower", command) for command in FLOWER],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_a_user_is_not_for_is_refused(login: Login, user: str, command: tuple[str, ...]) -> None:
    with pytest.raises(NoPermissionError):
        login(user).execute_command(*command)


@pytest.mark.parametrize("user", ["producer", "worker", "flower", "gateway"])
def test_a_script_has_no_more_rights_than_its_caller(login: Login, user: str) -> None:
    with pytest.raises(RedisError, match=r"can't access|NOPERM|no permissions"):
        login(user).eval("return redis.call('SET', ARGV[1], '1')", 0, "other:key")
    assert login("operator").exists("other:key") == 0


def test_nobody_is_let_in_without_a_name(server: RedisServer) -> None:
    with Redis(port=server.port) as nobody, pytest.raises(RedisError):
        nobody.ping()
