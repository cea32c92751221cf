"""Flower as people watch it: states and ids, and no word or image of a user."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from celery import Celery

from producer import Client, Job
from producer.demo.redis_server import free_port
from tests.worker_process import ROOT, StartWorker
from vqa import Cancelled, VQAError

SECRET = "the-secret-question"
PASSWORD = "a password for tests"
WAIT_S = 60.0

Read = Callable[[str], Any]


@pytest.fixture
def flower(redis_url: str, tmp_path: Path) -> Iterator[str]:
    port = free_port("127.0.0.1")
    settings = {"VQA_REDIS_URL": redis_url, "VQA_FLOWER_PORT": str(port), "VQA_FLOWER_PASSWORD": PASSWORD}
    with (tmp_path / "flower.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "producer.monitor.flower"],
            cwd=ROOT,
            env=os.environ | settings,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    until = time.monotonic() + WAIT_S
    while True:
        assert process.poll() is None, (tmp_path / "flower.log").read_text()
        assert time.monotonic() < until
        try:
            requests.get(f"{url}/healthcheck", timeout=5)
            break
        except requests.ConnectionError:
            time.sleep(0.05)
    yield url
    process.terminate()
    process.wait(WAIT_S)


def get(url: str) -> requests.Response:
    return requests.get(url, auth=("vqa", PASSWORD), timeout=30)


def post(url: str) -> None:
    assert requests.post(url, auth=("vqa", PASSWORD), timeout=30).status_code == 200


def wait_until(done: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < until
        time.sleep(0.05)


def tasks_when(url: str, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    until = time.monotonic() + WAIT_S
    while not done(tasks := get(f"{url}/api/tasks").json()):
        assert time.monotonic() < until, {id: task["state"] for id, task in tasks.items()}
        time.sleep(0.1)
    return tasks


def test_it_shows_states_by_job_id_and_none_of_a_users_words(
    client: Client, other_app: Celery, flower: str, start_worker: StartWorker
) -> None:
    start_worker()
    fail = {"metadata": {"echo_fail": "BadImage", "note": SECRET}}
    words = [{"role": "user", "content": SECRET}]
    answered = client.submit(Job(messages=words))
    failed = client.submit(Job(messages=words, **fail))
    retried = client.submit(
        Job(messages=words, metadata={"echo_fail": "EngineError"}, retry={"attempts": 2, "base_s": 60, "cap_s": 60})
    )
    foreign = other_app.send_task("vqa.answer", [{"messages": words}], queue="bulk").id
    refused = other_app.send_task("vqa.answer", [{"messages": words, SECRET: SECRET}], kwargs={"x": SECRET}).id
    client.answer(answered, timeout_s=WAIT_S)
    with pytest.raises(VQAError):
        client.answer(failed, timeout_s=WAIT_S)

    states = {answered: "SUCCESS", failed: "FAILURE", retried: "RETRY", foreign: "SUCCESS", refused: "FAILURE"}
    tasks = tasks_when(flower, lambda tasks: {id: task["state"] for id, task in tasks.items()} == states)
    assert {task["name"] for task in tasks.values()} == {"vqa.answer"}

    pages = [f"{flower}/api/tasks", f"{flower}/tasks", f"{flower}/workers", f"{flower}/api/workers?refresh=1"]
    pages += [f"{flower}/task/{id}" for id in tasks] + [f"{flower}/api/task/info/{id}" for id in tasks]
    for page in pages:
        response = get(page)
        assert response.status_code == 200, page
        assert SECRET not in response.text, page
        assert "echo:" not in response.text, page


def test_what_a_worker_holds_is_shown_without_words(
    client: Client, other_app: Celery, flower: str, start_worker: StartWorker
) -> None:
    start_worker(VQA_ECHO_DELAY_S="20")
    foreign = other_app.send_task("vqa.answer", [{"messages": [{"role": "user", "content": SECRET}]}], queue="bulk").id
    tasks_when(flower, lambda tasks: foreign in tasks)
    inspected = other_app.control.inspect(timeout=5).active()
    assert foreign in str(inspected)
    assert SECRET not in str(inspected)
    client.cancel(foreign)


def test_its_buttons_revoke_and_terminate_cancel_jobs(
    client: Client, flower: str, start_worker: StartWorker, other_app: Celery
) -> None:
    workers = [start_worker(name, VQA_SLOTS="1", VQA_ECHO_DELAY_S="100") for name in ("one", "two")]
    words = [{"role": "user", "content": SECRET}]
    running = client.submit(Job(messages=words, timeout_s=120))
    wait_until(lambda: client.counts()["interactive"]["leased"] == 1)
    # three threads a worker hold them all
    filling = client.submit_many(Job(messages=words, timeout_s=120) for _ in range(5))
    wait_until(lambda: client.counts()["interactive"]["leased"] == 6)
    waiting = client.submit(Job(messages=words, timeout_s=120))
    foreign = other_app.send_task("vqa.answer", [{"messages": words}], queue="bulk").id

    post(f"{flower}/api/task/revoke/{waiting}")
    post(f"{flower}/api/task/revoke/{foreign}")
    for id in (running, *filling):
        post(f"{flower}/api/task/revoke/{id}?terminate=true")
    for id in (running, waiting, foreign, *filling):
        with pytest.raises(Cancelled):
            client.answer(id, timeout_s=WAIT_S)
        assert not client.cancel(id)

    # the slots are free, and the messages of what was cancelled before delivery are refused
    after = client.submit(Job(messages=words, metadata={"echo_delay_s": "0"}))
    assert client.answer(after, timeout_s=WAIT_S).attempt == 1
    expected = dict.fromkeys([running, waiting, foreign, *filling], "REVOKED") | {after: "SUCCESS"}
    tasks_when(flower, lambda tasks: {id: task["state"] for id, task in tasks.items()} == expected)
    logs = [worker.log.read_text() for worker in workers]
    assert sum(log.count("is cancelled by remote control") for log in logs) == 8
    assert not any("Traceback" in log for log in logs)


def test_buttons_that_would_strand_jobs_say_why_they_do_nothing(
    client: Client, flower: str, start_worker: StartWorker
) -> None:
    start_worker()
    (name,) = (worker.name for worker in client.workers())
    wait_until(lambda: name in get(f"{flower}/api/workers?refresh=1").json())
    for button, why in (
        (f"worker/pool/grow/{name}?n=3", "fixed when a worker starts (VQA_SLOTS)"),
        (f"worker/queue/cancel-consumer/{name}?queue=interactive", "every worker serves every lane"),
    ):
        reply = requests.post(f"{flower}/api/{button}", auth=("vqa", PASSWORD), timeout=30)
        assert reply.status_code == 403
        assert why in reply.text


def test_what_is_revoked_ends_a_wait_in_another_app(
    client: Client, other_app: Celery, start_worker: StartWorker
) -> None:
    start_worker()
    result = other_app.send_task(
        "vqa.answer", [{"messages": [{"role": "user", "content": SECRET}], "metadata": {"echo_delay_s": "100"}}]
    )
    wait_until(lambda: client.counts()["bulk"]["leased"] == 1)
    result.revoke(terminate=True)
    with pytest.raises(Cancelled):
        result.get(timeout=WAIT_S)


def test_it_asks_for_a_password_and_listens_on_loopback_alone(flower: str) -> None:
    assert requests.get(f"{flower}/api/tasks", timeout=30).status_code == 401
    assert requests.get(f"{flower}/api/tasks", auth=("vqa", "wrong"), timeout=30).status_code == 401
    assert get(f"{flower}/api/tasks").status_code == 200
    # an address of this machine that is not loopback's first: not listened on
    with pytest.raises(requests.ConnectionError):
        requests.get(flower.replace("127.0.0.1", "127.0.0.2") + "/metrics", timeout=5)
