"""Flower as people watch it: states and ids, and no word or image of a user."""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests
from celery import Celery

from producer import Client, ImagePart, Job
from producer.demo.redis_server import EmbeddedRedis, free_port
from tests.e2e.conftest import another_app
from tests.e2e.site import site_on
from tests.worker_process import ROOT, StartWorker
from vqa import Cancelled, VQAError

SECRET = "the-secret-question"
PASSWORD = "a password for tests"
WAIT_S = 60.0

Read = Callable[[str], Any]


@contextmanager
def running(redis_url: str, tmp_path: Path, port: int, **variables: str) -> Iterator[str]:
    settings = {"VQA_REDIS_URL": redis_url, "VQA_FLOWER_PORT": str(port)} | variables
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
    try:
        while not answers(url):
            assert process.poll() is None, (tmp_path / "flower.log").read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(WAIT_S)


def answers(url: str) -> bool:
    try:
        requests.get(f"{url}/healthcheck", timeout=5)
    except (requests.ConnectionError, requests.Timeout):
        return False
    return True


@pytest.fixture
def flower(redis_url: str, tmp_path: Path) -> Iterator[str]:
    with running(redis_url, tmp_path, free_port("127.0.0.1"), VQA_FLOWER_PASSWORD=PASSWORD) as url:
        yield url


@dataclass(frozen=True)
class Watched:
    """A worker that echoes, Flower, our client and another service's app, which tests share."""

    client: Client
    other_app: Celery
    flower: str


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("flower")
    with (
        EmbeddedRedis() as server,
        # before the worker, whose events it would miss until it listens
        running(server.url, folder, free_port("127.0.0.1"), VQA_FLOWER_PASSWORD=PASSWORD) as url,
        site_on(server.url, folder) as site,
        another_app(server.url) as other_app,
    ):
        yield Watched(site.client, other_app, url)


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


# the first that Flower sees, so that it shows no other jobs
def test_it_shows_states_by_job_id_and_none_of_a_users_words(watched: Watched) -> None:
    client, other_app, flower = watched.client, watched.other_app, watched.flower
    fail = {"metadata": {"echo_fail": "BadImage", "note": SECRET}}
    words = [{"role": "user", "content": SECRET}]
    answered = client.submit(Job(messages=words))
    failed = client.submit(Job(messages=words, **fail))
    # the delay is drawn from none to the longest: after a short one it would have failed before it is looked at
    once = {"attempts": 2, "base_s": 86_400, "cap_s": 86_400}
    retried = client.submit(Job(messages=words, metadata={"echo_fail": "EngineError"}, retry=once, timeout_s=3600))
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


def test_what_a_worker_holds_is_shown_without_words(watched: Watched) -> None:
    words = [{"role": "user", "content": SECRET}]
    sent = {"messages": words, "metadata": {"echo_delay_s": "20"}}
    foreign = watched.other_app.send_task("vqa.answer", [sent], queue="bulk").id
    tasks_when(watched.flower, lambda tasks: foreign in tasks)
    inspected = watched.other_app.control.inspect(timeout=5).active()
    assert foreign in str(inspected)
    assert SECRET not in str(inspected)
    watched.client.cancel(foreign)


def test_buttons_that_would_strand_jobs_say_why_they_do_nothing(watched: Watched) -> None:
    flower = watched.flower
    (name,) = (worker.name for worker in watched.client.workers())
    wait_until(lambda: name in get(f"{flower}/api/workers?refresh=1").json())
    for button, why in (
        (f"worker/pool/grow/{name}?n=3", "fixed when a worker starts (VQA_SLOTS)"),
        (f"worker/queue/cancel-consumer/{name}?queue=interactive", "every worker serves every lane"),
    ):
        reply = requests.post(f"{flower}/api/{button}", auth=("vqa", PASSWORD), timeout=30)
        assert reply.status_code == 403
        assert why in reply.text


def test_what_is_revoked_ends_a_wait_in_another_app(watched: Watched) -> None:
    client = watched.client
    result = watched.other_app.send_task(
        "vqa.answer", [{"messages": [{"role": "user", "content": SECRET}], "metadata": {"echo_delay_s": "100"}}]
    )
    wait_until(lambda: client.counts()["bulk"]["leased"] == 1)
    result.revoke(terminate=True)
    with pytest.raises(Cancelled):
        result.get(timeout=WAIT_S)


def test_it_asks_for_a_password_and_listens_on_loopback_alone(watched: Watched) -> None:
    flower = watched.flower
    assert requests.get(f"{flower}/api/tasks", timeout=30).status_code == 401
    assert requests.get(f"{flower}/api/tasks", auth=("vqa", "wrong"), timeout=30).status_code == 401
    assert get(f"{flower}/api/tasks").status_code == 200
    # an address of this machine that is not loopback's first: not listened on
    with pytest.raises(requests.ConnectionError):
        requests.get(flower.replace("127.0.0.1", "127.0.0.2") + "/metrics", timeout=5)


def rows(url: str, search: str = "") -> list[dict[str, Any]]:
    """What the page of tasks asks for."""
    columns = {"draw": "1", "start": "0", "length": "500", "order[0][column]": "0", "columns[0][data]": "received"}
    asked = columns | {"search[value]": search}
    reply = requests.post(f"{url}/tasks/datatable", data=asked, auth=("vqa", PASSWORD), timeout=30)
    assert reply.status_code == 200, reply.text
    return list(reply.json()["data"])


def events(url: str, kind: str) -> int:
    """How many events of a kind Flower has counted, of all workers."""
    lines = requests.get(f"{url}/metrics", timeout=30).text.splitlines()
    found = (line for line in lines if line.startswith("flower_events_total{") and f'type="{kind}"' in line)
    return round(sum(float(line.rsplit(" ", 1)[1]) for line in found))


def test_under_load_it_counts_each_job_once_and_says_what_it_is(
    client: Client, flower: str, start_worker: StartWorker, redis_url: str
) -> None:
    start_worker("card0", VQA_SLOTS="4", VQA_MODEL="shown-model")
    image = ImagePart(image=(ROOT / "examples" / "images" / "camera.png").read_bytes())
    told: list[dict[str, Any]] = [{"type": "text", "text": SECRET}]
    words = [{"role": "user", "content": told}]
    shown = [{"role": "user", "content": [image, image, *told]}]
    # these hold all threads until others are cancelled or too late
    slow = client.submit_many(Job(messages=words, metadata={"echo_delay_s": "100"}, timeout_s=200) for _ in range(6))
    wait_until(lambda: client.counts()["interactive"]["leased"] == 6)
    cancelled = client.submit_many(Job(messages=words) for _ in range(10))
    overdue = client.submit_many(Job(messages=words, timeout_s=0.2) for _ in range(10))
    assert all(client.cancel(id) for id in cancelled)
    assert {each.code() for _, each in client.answers(overdue, timeout_s=WAIT_S)} == {"deadline_exceeded"}
    assert all(client.cancel(id) for id in slow)
    failed = client.submit_many(Job(messages=words, metadata={"echo_fail": "BadImage"}) for _ in range(20))
    again = {"attempts": 2, "base_s": 0, "cap_s": 0}
    given_up = client.submit_many(
        Job(messages=words, metadata={"echo_fail": "EngineError"}, retry=again) for _ in range(5)
    )
    answered = client.submit_many(Job(messages=shown, lane="bulk", tenant="acme") for _ in range(100))
    outcomes = dict(client.answers([*failed, *given_up, *answered], timeout_s=WAIT_S))
    assert sum(isinstance(each, VQAError) for each in outcomes.values()) == 25

    expected = dict.fromkeys(answered, "SUCCESS") | dict.fromkeys([*slow, *cancelled], "REVOKED")
    expected |= dict.fromkeys([*overdue, *failed, *given_up], "FAILURE")
    tasks_when(flower, lambda tasks: {id: task["state"] for id, task in tasks.items()} == expected)
    counted = {kind: events(flower, f"task-{kind}") for kind in ("started", "succeeded", "failed", "retried")}
    # two attempts of each that was given up; what was cancelled or overdue before never started
    assert counted == {"started": 6 + 20 + 2 * 5 + 100, "succeeded": 100, "failed": 10 + 20 + 5, "retried": 5}

    [row] = [row for row in rows(flower) if row["uuid"] == answered[0]]
    assert row["kwargs"] == "bulk, tenant acme, 2 images"
    assert re.fullmatch(r"card0@\S+", row["worker"])
    assert Counter(row["state"] for row in rows(flower, "kwargs:tenant=acme")) == {"SUCCESS": 100}
    page = get(f"{flower}/task/{given_up[0]}").text
    assert f"vqa status {given_up[0]}" in page
    assert f"vqa dlq show {given_up[0]}" in page
    assert "attempt 2" in page
    assert SECRET not in page + str(rows(flower))


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


class Provider(BaseHTTPRequestHandler):
    """An OpenID Connect provider, as far as Flower asks one: a token for a code, and an address for a token."""

    email = "ann@example.org"

    def do_POST(self) -> None:
        form = self.rfile.read(int(self.headers["Content-Length"])).decode()
        assert self.path == "/v1/token"
        assert "code=good-code" in form
        assert "client_secret=the-client-secret" in form
        self.reply({"access_token": "the-token"})

    def do_GET(self) -> None:
        assert self.path == "/v1/userinfo"
        assert self.headers["Authorization"] == "Bearer the-token"
        self.reply({"email": self.email, "email_verified": True})

    def reply(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def test_a_login_by_openid_connect_lets_in_those_who_are_named_below_a_prefix(redis_url: str, tmp_path: Path) -> None:
    port = free_port("127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as provider:
        Thread(target=provider.serve_forever, daemon=True).start()
        variables = {
            "FLOWER_AUTH": "ann@example.org|bob@example.org",
            "FLOWER_AUTH_PROVIDER": "flower.views.auth.OktaLoginHandler",
            "FLOWER_OAUTH2_OKTA_BASE_URL": f"http://127.0.0.1:{provider.server_port}",
            "FLOWER_OAUTH2_KEY": "the-client-id",
            "FLOWER_OAUTH2_SECRET": "the-client-secret",
            "FLOWER_OAUTH2_REDIRECT_URI": f"http://127.0.0.1:{port}/flower/login",
            "FLOWER_URL_PREFIX": "flower",
        }
        with running(redis_url, tmp_path, port, **variables) as url, requests.Session() as browser:
            # not logged in: to Flower's login, which leads to the provider's
            asked = browser.get(f"{url}/flower/tasks", allow_redirects=False, timeout=30)
            assert asked.status_code == 302
            sent = browser.get(f"{url}/flower/login", allow_redirects=False, timeout=30)
            assert sent.headers["Location"].startswith(f"http://127.0.0.1:{provider.server_port}/v1/authorize?")
            state = re.search(r"state=([^&]+)", sent.headers["Location"])
            assert state is not None
            forged = requests.get(f"{url}/flower/login?code=good-code&state={state[1]}", timeout=30)
            assert forged.status_code == 403
            back = browser.get(f"{url}/flower/login?code=good-code&state={state[1]}", allow_redirects=False, timeout=30)
            assert (back.status_code, back.headers["Location"]) == (302, "/flower")
            assert browser.get(f"{url}/flower/tasks", allow_redirects=False, timeout=30).status_code == 200
            # somebody whom FLOWER_AUTH does not name
            Provider.email = "eve@example.org"
            with requests.Session() as other:
                sent = other.get(f"{url}/flower/login", allow_redirects=False, timeout=30)
                state = re.search(r"state=([^&]+)", sent.headers["Location"])
                assert state is not None
                refused = other.get(f"{url}/flower/login?code=good-code&state={state[1]}", timeout=30)
                assert refused.status_code == 403
        provider.shutdown()
    assert "login by OAuth" in (tmp_path / "flower.log").read_text()


def test_a_login_by_oauth_that_lacks_a_variable_names_it() -> None:
    program = [sys.executable, "-m", "producer.monitor.flower"]
    environment = os.environ | {"FLOWER_AUTH": "ann@example.org"}
    ended = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=WAIT_S)
    assert ended.returncode == 2
    assert ended.stderr == "vqa: SettingsError: FLOWER_AUTH_PROVIDER: a login by OAuth (FLOWER_AUTH) needs it\n"
