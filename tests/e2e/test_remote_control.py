"""Every command of Celery's control panel, sent to a real worker: none strands a lane, and what is refused says why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.worker.control import Panel

from producer import Client, Job
from tests.worker_process import WorkerProcess
from vqa.celery import make_app
from vqa.ledger.ledger import Ledger
from vqa.redis.connection import connect
from vqa.settings import QueueSettings

WAIT_S = 60.0

#: arguments, and what the reply has to say where the command is refused
COMMANDS: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "active": ({}, ""),
    "active_queues": ({}, ""),
    "add_consumer": ({"queue": "strangers"}, "every worker serves every lane"),
    "autoscale": ({"max": 1, "min": 1}, "VQA_SLOTS"),
    "cancel_consumer": ({"queue": "interactive"}, "every worker serves every lane"),
    "clock": ({}, ""),
    "conf": ({"with_defaults": True}, ""),
    "disable_events": ({}, "Flower"),
    "dump_active": ({}, ""),
    "dump_conf": ({}, ""),
    "dump_reserved": ({}, ""),
    "dump_revoked": ({}, ""),
    "dump_schedule": ({}, ""),
    "dump_tasks": ({}, ""),
    "election": ({"id": "a", "topic": "task", "action": "x"}, "no leader"),
    "enable_events": ({}, ""),
    "heartbeat": ({}, ""),
    "hello": ({"from_node": "other@host", "revoked": ["probe-interactive", "probe-bulk"]}, ""),
    "memdump": ({}, "hold up"),
    "memsample": ({}, "hold up"),
    "objgraph": ({}, "hold up"),
    "ping": ({}, ""),
    "pool_grow": ({"n": 100}, "VQA_SLOTS"),
    "pool_restart": ({}, "shutdown"),
    "pool_shrink": ({"n": 100}, "VQA_SLOTS"),
    "query_task": ({"ids": ["a"]}, ""),
    "rate_limit": ({"task_name": "vqa.answer", "rate_limit": "1/h"}, "VQA_TENANT_MOST"),
    "registered": ({}, ""),
    "report": ({}, ""),
    "reserved": ({}, ""),
    "revoke": ({"task_id": "nobodys"}, ""),
    "revoke_by_stamped_headers": ({"headers": {"a": ["b"]}}, "by id"),
    "revoked": ({}, ""),
    "rollout": ({"request": {"id": "0" * 32, "target": {"model": "org/new"}}}, "no supervisor"),
    "scheduled": ({}, ""),
    "stats": ({}, ""),
    "terminate": ({"task_id": "nobodys", "signal": "KILL"}, ""),
    "time_limit": ({"task_name": "vqa.answer", "hard": 0.001, "soft": 0.001}, "VQA_BULK_TIMEOUT_S"),
    # its own test, as it ends the worker
    "shutdown": ({}, ""),
}


@pytest.fixture(scope="module")
def settings(redis_server: str) -> QueueSettings:
    return QueueSettings(redis_url=redis_server)


@pytest.fixture(scope="module")
def app(settings: QueueSettings) -> Iterator[Celery]:
    app = make_app(settings)
    yield app
    app.close()


@pytest.fixture(scope="module")
def worker(settings: QueueSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    log = tmp_path_factory.mktemp("worker") / "log"
    with connect(settings) as redis:
        redis.flushall()
        worker = WorkerProcess(settings.redis_url, "controlled", log, VQA_SLOTS="4")
        try:
            worker.wait_ready(Ledger(redis))
            yield worker
        finally:
            worker.stop()


@pytest.fixture(scope="module")
def client(settings: QueueSettings) -> Iterator[Client]:
    with Client(settings) as client:
        yield client


def send(app: Celery, name: str, arguments: Mapping[str, Any]) -> Any:
    replies = app.control.broadcast(name, arguments=dict(arguments), reply=True, timeout=WAIT_S, limit=1)
    ((reply,),) = (list(each.values()) for each in replies)
    return reply


def test_every_command_that_celery_has_is_tried_here() -> None:
    # ours is added in workers' processes
    assert COMMANDS.keys() == Panel.data.keys() | {"rollout"}


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"shutdown"}))
def test_jobs_of_both_lanes_are_answered_after_a_command(
    worker: WorkerProcess, app: Celery, client: Client, name: str
) -> None:
    arguments, refused = COMMANDS[name]
    reply = send(app, name, arguments)
    if refused:
        assert reply.keys() == {"error"}
        assert reply["error"].startswith(f"{name} is refused: ")
        assert refused in reply["error"]
    else:
        assert "error" not in (reply or {}), reply
    for lane in ("interactive", "bulk"):
        # the ids that `hello` says are revoked, in its own round
        id = f"probe-{lane}" if name == "hello" else f"{name}-{lane}"
        job = Job(id=id, messages=[{"role": "user", "content": "?"}], lane=lane, timeout_s=20)
        assert client.answer(client.submit(job), timeout_s=WAIT_S).attempt == 1
    assert send(app, "stats", {})["pool"]["max-concurrency"] == 6
    assert worker.process.poll() is None
    assert "Traceback" not in worker.log.read_text()


def test_shutdown_drains_within_the_time_for_it(settings: QueueSettings, tmp_path: Path, client: Client) -> None:
    log = tmp_path / "log"
    with connect(settings) as redis:
        worker = WorkerProcess(settings.redis_url, "ending", log, VQA_ECHO_DELAY_S="30", VQA_DRAIN_S="1")
        try:
            worker.wait_ready(Ledger(redis))
        except BaseException:
            worker.stop()
            raise
    app = make_app(settings)
    try:
        id = client.submit(Job(messages=[{"role": "user", "content": "?"}], timeout_s=120))
        reply = app.control.broadcast("shutdown", destination=[f"ending@{host()}"], reply=True, timeout=WAIT_S, limit=1)
        assert "draining" in str(reply)
        assert worker.process.wait(WAIT_S) == 0
        client.cancel(id)
    finally:
        worker.stop()
        app.close()
    assert "draining: " in log.read_text()


def host() -> str:
    from socket import gethostname

    return gethostname()
