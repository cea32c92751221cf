"""Several models on one queue system: real workers of two models, a gateway, and every door by which jobs come in."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from celery import Celery

from producer import Cancelled, Client
from producer.cli.main import main
from tests.e2e.conftest import until
from tests.producer.gateway.gateway_process import GatewayProcess
from tests.redis_server import RedisServer
from tests.worker_process import WorkerProcess
from vqa.errors import InvalidJob, ModelNotFound
from vqa.inbox import INBOX
from vqa.jobs.job import Job
from vqa.jobs.lane import LANES, Lane
from vqa.ledger.ledger import Ledger
from vqa.redis.connection import connect
from vqa.routing import is_in_share
from vqa.settings import QueueSettings

#: so that a killed worker's jobs are back soon
LEASE = {"VQA_LEASE_S": "1"}

#: seconds of a job that waits for the slot; one without a delay needs none
SHORT_S = 0.01


class Site:
    """Worker `a` serves small and tiny, and jobs that name no model; worker `b` serves large alone."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        self.redis_url, self._folder = redis_url, folder
        self._started: list[WorkerProcess] = []
        self.settings = QueueSettings(redis_url=redis_url, lease_s=1)
        self.client = Client(self.settings)
        self.redis = connect(self.settings)
        self._journal = folder / "journal"
        own = {"VQA_SERVED_NAME": "small, tiny", "VQA_SLOTS": "1", "VQA_ECHO_JOURNAL": str(self._journal)}
        self.a = self.start("a", ready=False, **own)
        self.b = self.start_large("b", ready=False)
        self.gateway = GatewayProcess(redis_url, folder / "gateway", **LEASE)
        for worker in self._started:
            worker.wait_ready(Ledger(self.redis))
        # its last look may have found one worker alone
        until(lambda: self.listed() == ["large", "small", "tiny"], lambda: str(self.listed()))

    def listed(self) -> list[str]:
        """Return the models that the gateway lists."""
        listed = httpx2.get(f"{self.gateway.url}/v1/models", timeout=60).json()
        return [model["id"] for model in listed["data"]]

    def start(self, name: str, ready: bool = True, **variables: str) -> WorkerProcess:
        worker = WorkerProcess(self.redis_url, name, self._folder / f"{name}.log", **LEASE, **variables)
        self._started.append(worker)
        if ready:
            worker.wait_ready(Ledger(self.redis))
        return worker

    def start_large(self, name: str, ready: bool = True) -> WorkerProcess:
        return self.start(name, ready, VQA_SERVED_NAME="large", VQA_UNNAMED_JOBS="0", VQA_SLOTS="8")

    def occupy(self) -> str:
        """Give the only slot of `a` to a job that runs until it is cancelled; return its id."""
        id = self.client.submit(job("small", "bulk", delay_s=3600))
        until(lambda: self.client.states([id])[id].state == "leased")
        return id

    def order(self, ids: list[str], after: str) -> list[str]:
        """Cancel the job that has the slot; return the ids of the others in the order in which they got it."""
        assert self.client.cancel(after)
        with pytest.raises(Cancelled):
            self.client.answer(after)
        # a client that is late finds the outcomes of many jobs at once, in the order of its own list
        assert len(dict(self.client.answers(ids))) == len(ids)
        lines = map(json.loads, self._journal.read_text().splitlines())
        begun = [line["id"] for line in lines if line["event"] == "start"]
        return list(dict.fromkeys(id for id in begun if id in set(ids)))

    def stop(self) -> None:
        self.gateway.stop()
        for worker in self._started:
            worker.stop()
        self.client.close()
        self.redis.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "redis").mkdir()
    with RedisServer(folder / "redis") as server:
        site = Site(server.url, folder)
        try:
            yield site
        finally:
            site.stop()


Vqa = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def vqa(site: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Vqa:
    """Run the command to its end in this process: a new one takes seconds to start."""
    for name, value in {"VQA_REDIS_URL": site.redis_url, **LEASE}.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        capfd.readouterr()
        monkeypatch.setattr("sys.argv", ["vqa", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return subprocess.CompletedProcess(arguments, int(end.value.code or 0), *capfd.readouterr())

    return run


def job(model: str | None, lane: Lane = "interactive", delay_s: float = 0, **fields: Any) -> Job:
    metadata = {"echo_delay_s": str(delay_s)} if delay_s else {}
    return Job(messages=[{"role": "user", "content": "?"}], model=model, lane=lane, metadata=metadata, **fields)


def chat(site: Site, model: str, **fields: Any) -> httpx2.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "?"}], **fields}
    return httpx2.post(f"{site.gateway.url}/v1/chat/completions", json=body, timeout=60)


@pytest.mark.parametrize(
    ("model", "worker", "answered_by"),
    [("small", "a", "small"), ("tiny", "a", "tiny"), ("large", "b", "large"), (None, "a", "small")],
    ids=["first name", "second name", "other worker", "no name"],
)
@pytest.mark.parametrize("lane", ["interactive", "bulk"])
def test_a_job_is_answered_by_the_model_that_it_names(
    site: Site, model: str | None, worker: str, answered_by: str, lane: Lane
) -> None:
    answer = site.client.answer(site.client.submit(job(model, lane)))
    assert (answer.model, answer.worker.partition("@")[0]) == (answered_by, worker)


def test_a_request_is_answered_by_the_model_that_it_names(site: Site) -> None:
    assert chat(site, "large").json()["model"] == "large"
    chunks = chat(site, "large", stream=True).text.split("\n\n")
    assert {json.loads(chunk[6:])["model"] for chunk in chunks if chunk.startswith("data: {")} == {"large"}


def test_models_are_listed_over_http_and_on_the_command_line(site: Site, vqa: Vqa) -> None:
    assert site.listed() == ["large", "small", "tiny"]
    shown = json.loads(vqa("models", "--json").stdout)
    assert {model["name"]: (len(model["workers"]), model["slots"]) for model in shown} == {
        "large": (1, 8),
        "small": (1, 1),
        "tiny": (1, 1),
    }
    assert "models=small,tiny" in vqa("status").stdout


def test_a_client_is_refused_an_unknown_model_with_those_that_are_served(site: Site) -> None:
    before = site.redis.zcard("vqa:deadlines")
    with pytest.raises(ModelNotFound, match=r"no worker serves 'huge'; served: large, small, tiny$"):
        site.client.submit(job("huge"))
    with pytest.raises(ModelNotFound):
        site.client.submit_many([job("small"), job("huge")])
    with pytest.raises(ModelNotFound):
        site.client.batches.create([{"id": "1", "messages": job(None).messages}], model="huge")
    assert site.redis.zcard("vqa:deadlines") == before


@pytest.mark.parametrize("name", ["", "a b", "../x\n", "é", "x" * 129, "*", "-rf"], ids=range(7))
def test_a_name_that_no_model_can_have_is_no_valid_job(name: str) -> None:
    with pytest.raises(InvalidJob, match="model"):
        job(name)


def test_a_request_for_an_unknown_model_gets_404_with_those_that_are_served(site: Site) -> None:
    reply = chat(site, "gpt-9")
    assert reply.status_code == 404
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "served: large, small, tiny" in error["message"]


def test_rows_that_name_an_unknown_model_fail_and_the_others_are_answered(vqa: Vqa, tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "?"}]}
    rows = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": {"model": name, **body}}
        for name in ("large", "huge")
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = vqa("submit", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"), "--quiet")
    assert done.returncode == 3, done.stderr
    [answered] = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    [failed] = map(json.loads, (tmp_path / "out.errors.jsonl").read_text().splitlines())
    assert answered["response"]["body"]["model"] == "large"
    assert (failed["custom_id"], failed["error"]["code"]) == ("huge", "model_not_found")


def test_a_batch_over_http_goes_to_the_models_that_its_rows_name(site: Site) -> None:
    body = {"messages": [{"role": "user", "content": "?"}]}
    rows = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": {"model": name, **body}}
        for name in ("large", "small", "huge")
    ]
    lines = "\n".join(map(json.dumps, rows)).encode()
    with httpx2.Client(base_url=site.gateway.url, timeout=30) as http:
        file = http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", lines)}).json()["id"]
        asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = http.post("/v1/batches", json=asked).json()
        until(lambda: http.get(f"/v1/batches/{batch['id']}").json()["status"] == "completed")
        batch = http.get(f"/v1/batches/{batch['id']}").json()
        answered = http.get(f"/v1/files/{batch['output_file_id']}/content").text
        failed = http.get(f"/v1/files/{batch['error_file_id']}/content").text
    models = {row["custom_id"]: row["response"]["body"]["model"] for row in map(json.loads, answered.splitlines())}
    assert models == {"large": "large", "small": "small"}
    response = json.loads(failed)["response"]
    assert (response["status_code"], response["body"]["error"]["code"]) == (404, "model_not_found")


def test_jobs_of_other_programs_go_to_the_model_that_they_name(site: Site, other_app_of: Celery) -> None:
    for model in ("large", "huge"):
        document = json.loads(job(None).to_json()) | {"id": f"inbox-{model}", "model": model}
        site.redis.xadd(INBOX, {"job": json.dumps(document)})
    sent = {
        # on the queue of jobs that name none, and on the model's own
        "named": other_app_of.send_task(
            "vqa.answer", [{"messages": [{"role": "user", "content": "?"}], "model": "large"}]
        ),
        "routed": other_app_of.send_task(
            "vqa.answer", [{"messages": [{"role": "user", "content": "?"}], "model": None}], queue="bulk.large"
        ),
        "unknown": other_app_of.send_task(
            "vqa.answer", [{"messages": [{"role": "user", "content": "?"}], "model": "huge"}]
        ),
    }
    ids = [*(each.id for each in sent.values()), "inbox-large", "inbox-huge"]
    # another program's job is known once a worker has read it
    until(lambda: all(state.state != "unknown" for state in site.client.states(ids).values()))
    outcomes = dict(site.client.answers(ids, 60))
    assert outcomes[sent["named"].id].model == outcomes[sent["routed"].id].model == "large"
    assert isinstance(outcomes[sent["unknown"].id], ModelNotFound)
    assert outcomes["inbox-large"].model == "large"
    assert isinstance(outcomes["inbox-huge"], ModelNotFound)


@pytest.fixture
def other_app_of(site: Site) -> Iterator[Celery]:
    app = Celery("other", broker=site.redis_url, set_as_current=False)
    yield app
    app.close()


def test_interactive_jobs_of_one_model_come_before_bulk_jobs_of_another(site: Site) -> None:
    first = site.occupy()
    bulk = site.client.submit_many(job("small", "bulk", SHORT_S) for _ in range(40))
    tiny = site.client.submit(job("tiny", delay_s=SHORT_S))
    # the worker holds a few before it has a slot for them
    assert site.order([*bulk, tiny], after=first).index(tiny) < 10


def test_both_names_of_a_worker_get_their_turns(site: Site) -> None:
    first = site.occupy()
    small = site.client.submit_many(job("small", "bulk", SHORT_S) for _ in range(40))
    tiny = site.client.submit_many(job("tiny", "bulk", SHORT_S) for _ in range(10))
    order = site.order([*small, *tiny], after=first)
    # in turn, ten of tiny end with about ten of small
    assert max(map(order.index, tiny)) < 35


def test_a_canary_gets_its_share_and_the_answers_say_so(site: Site, vqa: Vqa) -> None:
    assert vqa("models", "canary", "small", "large", "30").returncode == 0
    assert "30 % to large" in vqa("models").stdout
    try:
        # a client reads canaries once a second
        with Client(site.settings) as client:
            ids = client.submit_many(job("small") for _ in range(100))
            models = {id: outcome.model for id, outcome in client.answers(ids)}
    finally:
        assert vqa("models", "canary", "small", "--off").returncode == 0
    assert models == {id: "large" if is_in_share("small", id, 30) else "small" for id in ids}
    assert vqa("models", "canary", "small", "huge", "5").returncode == 1
    assert "served: large, small, tiny" in vqa("models", "canary", "small", "huge", "5").stderr


def share_of_small(site: Site) -> list[str]:
    """Let `b` run jobs that name small and that a share sends to large; a second attempt answers them at once."""
    site.client.models.set_canary("small", "large", 100)
    try:
        with Client(site.settings) as client:
            ids = client.submit_many(job("small", lane, delay_s=3600) for lane in LANES)
    finally:
        site.client.models.remove_canary("small")
    until(lambda: {each.state for each in site.client.states(ids).values()} == {"leased"})
    for id in ids:
        answer_at_once(site, id)
    return ids


def answer_at_once(site: Site, id: str) -> None:
    """Let the next attempt of a job with a delay of an hour have none."""
    payload = site.redis.get(f"vqa:job:{id}") or b""
    assert b'"3600"' in payload
    site.redis.set(f"vqa:job:{id}", payload.replace(b'"3600"', b'"0"'))


def test_a_killed_models_jobs_wait_for_a_worker_of_that_model(site: Site, vqa: Vqa) -> None:
    ids = site.client.submit_many(
        job("large", lane, delay_s=3600) for lane in ("interactive", "bulk") for _ in range(2)
    )
    until(lambda: site.redis.zcard("vqa:leased:interactive.large") + site.redis.zcard("vqa:leased:bulk.large") == 4)
    shared = share_of_small(site)
    site.b.kill()
    # accepted although no worker of the model is up
    ids.append(site.client.submit(job("large")))
    until(lambda: site.redis.zcard("vqa:queued:interactive.large") == 3)
    until(lambda: site.redis.zcard("vqa:queued:bulk.large") == 2)
    # the gateway's last look at the workers may be a second old
    until(lambda: chat(site, "large", vqa={"timeout_s": 1}).json()["error"]["code"] == "no_worker")
    assert site.client.answer(site.client.submit(job("small"))).worker.startswith("a@")
    assert "large: no worker is up" in vqa("models").stdout
    # those that a share had sent there return to the model that they name
    returned = dict(site.client.answers(shared, 60))
    assert {(each.model, each.worker.partition("@")[0], each.attempt) for each in returned.values()} == {
        ("small", "a", 2)
    }
    assert site.redis.zcard("vqa:queued:interactive.large") == 3
    for id in ids[:4]:
        answer_at_once(site, id)
    site.start_large("c")
    outcomes = dict(site.client.answers(ids, 60))
    assert {(outcome.model, outcome.worker.partition("@")[0]) for outcome in outcomes.values()} == {("large", "c")}
    assert len(outcomes) == 5
