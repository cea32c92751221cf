"""`vqa doctor`: quiet about a healthy queue, plain about what is wrong, and able to mend it by hand."""

import errno
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from redis import Redis

from producer import Client
from producer.cli.doctor import examine
from producer.demo.redis_server import free_port
from tests.producer.conftest import MakeJob, PlayedWorker, Vqa, wait_until
from tests.redis_server import RedisServer
from tests.vqa.images.stores.bucket_server import BucketServer
from tests.worker_process import StartWorker
from vqa.celery import make_app
from vqa.ledger.ledger import Ledger
from vqa.redis.connection import connect
from vqa.settings import QueueSettings
from workers.process.janitor import Janitor

Report = dict[str, list[tuple[str, str]]]
Examine = Callable[..., tuple[int, Report]]


@pytest.fixture
def doctor(redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Examine:
    """Examine; the exit status, and (level, words) by what they are about."""
    monkeypatch.setenv("VQA_REDIS_URL", redis_url)

    def run(repair: bool = False, **variables: str) -> tuple[int, Report]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        status = examine(repair, as_json=True)
        report: Report = {}
        for finding in json.loads(capsys.readouterr().out):
            report.setdefault(finding["about"], []).append((finding["level"], finding["said"]))
        return status, report

    return run


def wrong(report: Report) -> list[str]:
    return [f"{about}: {said}" for about, found in report.items() for level, said in found if level == "wrong"]


@pytest.fixture
def up(worker: PlayedWorker) -> None:
    """A worker that is up, as far as it says."""
    worker.ledger.renew("card0@here", [], 9, {"slots": 4})


def age(redis: Redis, by_s: float) -> None:
    """As if so much time had passed since anything happened in the ledger."""
    for key in redis.keys("vqa:*ed:interactive") + redis.keys("vqa:*ed:bulk") + [b"vqa:deadlines"]:
        for id, score in redis.zrange(key, 0, -1, withscores=True):
            redis.zadd(key, {id: score - by_s * 1000})


def test_a_healthy_busy_queue_is_well(
    doctor: Examine, start_worker: StartWorker, client: Client, question: MakeJob, redis: Redis
) -> None:
    start_worker("a", VQA_SLOTS="4", VQA_LEASE_S="2")
    stop = threading.Event()

    def ask() -> None:
        def jobs() -> Iterator[Any]:
            while not stop.is_set():
                delay = {"echo_delay_s": "0.02"}
                fails = {"echo_fail": "EngineError", "echo_fail_attempts": "1"}
                yield question(lane="bulk", metadata=delay, retry={"attempts": 3, "base_s": 0.5})
                yield question(lane="bulk", metadata=delay | fails, retry={"attempts": 3, "base_s": 0.5})

        for _ in client.ask_many(jobs(), in_flight=200):
            pass

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            status, report = doctor(VQA_LEASE_S="2")
            assert (status, wrong(report)) == (0, [])
    finally:
        stop.set()
        asking.join(timeout=60)
    assert [level for level, said in report["worker"] if said.startswith("a@")] == ["ok"]


def test_nobody_to_answer_is_wrong(doctor: Examine, client: Client, question: MakeJob) -> None:
    client.submit(question())
    status, report = doctor()
    assert (status, wrong(report)) == (1, ["worker: no worker is up"])
    assert report["interactive"][0][1].startswith("1 queued, 0 running, 0 delayed; the oldest has been queued for 0 s")


def test_a_worker_that_vanished_is_noted(doctor: Examine, up: None, redis: Redis) -> None:
    redis.hset("vqa:workers", "gone@there", json.dumps({"seen": (time.time() - 40) * 1000}) + "\n{}")
    status, report = doctor()
    assert status == 0
    assert [level for level, said in report["worker"] if "gone@there has not renewed for 4" in said] == ["note"]


def test_what_nobody_acts_on_is_wrong_and_repaired_by_hand(
    doctor: Examine, up: None, client: Client, worker: PlayedWorker, question: MakeJob, redis: Redis
) -> None:
    leased, delayed, unheard, alone = client.submit_many(question(lane="bulk", timeout_s=1000) for _ in range(4))
    late = client.submit(question(timeout_s=10))
    for _ in range(2):
        worker.ledger.retry(alone, worker.take(alone).token, charge="lost", error="WorkerLost: gone")
    assert worker.ledger.take(alone, "played@here", "last", 9, alone=True) != "alone"
    worker.take(leased)
    worker.ledger.retry(delayed, worker.take(delayed).token, 5, "EngineError: once")
    redis.delete("bulk")
    # it is up for doctors who take their time, too
    worker.ledger.renew("card0@here", [], 9, {"slots": 4})
    assert wrong(doctor(VQA_LEASE_S="1")[1]) == []
    age(redis, 60)
    worker.ledger.renew("card0@here", [], 9, {"slots": 4})
    status, report = doctor()
    assert status == 1
    assert wrong(report) == [
        "bulk: jobs not returned to the queue after their worker vanished: 2",
        "bulk: delayed jobs not published when due: 1",
        "bulk: queued jobs not republished after their message was lost: 1",
        "deadlines: open jobs not closed within 10 s of their deadline: 1",
    ]
    before = {id: client.states([id])[id] for id in (leased, delayed, unheard, alone, late)}
    assert [state.state for state in before.values()] == ["leased", "delayed", "queued", "leased", "queued"]
    # before, workers may not have had the time to renew
    wait_until(lambda: redis.info("server")["uptime_in_seconds"] > 1, "Redis is up for longer than a lease")
    _, report = doctor(repair=True)
    assert report["repair"] == [
        (
            "ok",
            "1 closed, past their deadline; 1 returned to the queue, their worker vanished; "
            "1 given up, their worker vanished; "
            "1 published, their delay is over; 1 republished, their message was lost",
        )
    ]
    after = client.states(before)
    assert [state.state for state in after.values()] == ["queued", "queued", "queued", "given_up", "failed"]
    assert redis.llen("bulk") == 3
    assert report["dead letters"] == [("note", "1: 1 worker_lost")]
    assert doctor(repair=True)[1]["repair"] == [("ok", "nothing was due")]
    worker.ledger.renew("card0@here", [], 9, {})
    status, report = doctor()
    assert (status, wrong(report)) == (0, [])


def test_leases_that_ran_out_just_now_are_no_alarm_and_may_be_renewed_during_a_repair(
    doctor: Examine, up: None, client: Client, worker: PlayedWorker, question: MakeJob
) -> None:
    id = client.submit(question())
    lease = worker.ledger.take(id, "paused@here", "token", 0.001)
    assert not isinstance(lease, str)
    wait_until(lambda: doctor(VQA_LEASE_S="2")[1]["interactive"][-1][0] == "note", "its lease ran out")
    # not so long that the lease would seem to be from before a clock was set back
    back = threading.Timer(0.3, worker.ledger.renew, ("paused@here", [(id, "token")], 4, {}))
    back.start()
    assert doctor(repair=True)[1]["repair"] == [("ok", "nothing was due")]
    back.join()
    assert client.states([id])[id].state == "leased"


def test_leases_from_before_redis_clock_was_set_back_are_wrong_and_repaired_by_hand(
    doctor: Examine, up: None, client: Client, worker: PlayedWorker, question: MakeJob, redis: Redis
) -> None:
    id = client.submit(question())
    worker.take(id)
    redis.zincrby("vqa:leased:interactive", 3_600_000, id)
    redis.hset("vqa:workers", "gone@there", json.dumps({"seen": (time.time() + 3600) * 1000}) + "\n{}")
    status, report = doctor()
    said = "interactive: leases that end later than they can, because Redis's clock was set back: 1"
    assert (status, wrong(report)) == (1, [said])
    silent = "gone@there has not renewed since Redis's clock was set back"
    assert [level for level, said in report["worker"] if said.startswith(silent)] == ["note"]
    returned = "1 returned to the queue, their worker vanished"
    assert doctor(repair=True)[1]["repair"] == [("ok", returned)]


def test_a_janitor_at_work_is_left_to_it(doctor: Examine, queue_settings: QueueSettings, redis: Redis) -> None:
    janitor = Janitor(redis, make_app(queue_settings), queue_settings)
    janitor.start()
    try:
        wait_until(lambda: redis.exists("vqa:janitor"), "the janitor sweeps")
        [(level, said)] = doctor(repair=True)[1]["repair"]
    finally:
        janitor.stop()
    assert level == "ok"
    assert said.startswith("a janitor is running")


def test_full_dead_letters_are_wrong(doctor: Examine, up: None, worker: PlayedWorker) -> None:
    for number in range(3):
        worker.ledger.dead_letter_message(f"m{number}", "bulk", b"", "malformed: not JSON")
    status, report = doctor()
    assert (status, report["dead letters"]) == (0, [("note", "3: 3 malformed")])
    status, report = doctor(VQA_DEAD_MOST="3")
    assert (status, len(wrong(report))) == (1, 1)


def test_a_full_lane_is_wrong(doctor: Examine, up: None, client: Client, question: MakeJob) -> None:
    client.submit_many([question(), question()])
    assert doctor(VQA_QUEUE_MOST="3")[0] == 0
    status, report = doctor(VQA_QUEUE_MOST="2")
    assert (status, len(wrong(report))) == (1, 1)
    assert "new jobs are refused with QueueFull" in report["interactive"][0][1]


def test_entries_that_wait_in_the_inbox_are_told(doctor: Examine, up: None, redis: Redis) -> None:
    assert "inbox" not in doctor()[1]
    redis.xadd("vqa:inbox", {"job": "{}"})
    [(level, said)] = doctor()[1]["inbox"]
    assert level == "note"
    assert said.endswith("no jobs yet: 1")


def test_keys_that_something_else_deletes_are_wrong(
    doctor: Examine, up: None, client: Client, question: MakeJob, redis: Redis
) -> None:
    ids = client.submit_many(question() for _ in range(3))
    redis.delete(f"vqa:job:{ids[0]}")
    assert wrong(doctor()[1])[0].startswith("leftovers: jobs with missing or inconsistent keys: 1;")
    redis.zrem("vqa:deadlines", *ids)
    assert wrong(doctor()[1])[0].startswith("leftovers: jobs with missing or inconsistent keys: 3;")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis", append_only=True) as server:
        with connect(QueueSettings(redis_url=server.url)) as redis:
            Ledger(redis).renew("card0@here", [], 9, {})
        yield server


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"maxmemory-policy": "allkeys-lru"}, "memory: maxmemory-policy is allkeys-lru"),
        ({"maxmemory": "1"}, "memory: "),
        ({"appendonly": "no"}, None),
    ],
)
def test_what_redis_is_set_to_is_judged(
    doctor: Examine, own: RedisServer, changes: dict[str, str], said: str | None
) -> None:
    status, report = doctor(VQA_REDIS_URL=own.url)
    assert (status, wrong(report)) == (0, [])
    assert report["persistence"] == [("ok", "append-only file, synced everysec")]
    with connect(QueueSettings(redis_url=own.url)) as redis:
        for name, value in changes.items():
            redis.config_set(name, value)
        status, report = doctor()
    if said is None:
        assert (status, report["persistence"][0][0]) == (0, "note")
    else:
        [found] = wrong(report)
        assert found.startswith(said)
        assert status == 1


def test_a_replica_is_wrong(doctor: Examine, own: RedisServer) -> None:
    with connect(QueueSettings(redis_url=own.url)) as redis:
        redis.replicaof("127.0.0.1", free_port())
        assert "redis: this is a replica, which accepts no writes" in wrong(doctor(VQA_REDIS_URL=own.url)[1])


def test_what_an_access_list_forbids_is_said_and_is_no_alarm(doctor: Examine, own: RedisServer) -> None:
    with connect(QueueSettings(redis_url=own.url)) as redis:
        redis.execute_command("ACL SETUSER limited on >secret ~* &* +@all -config -info")
    status, report = doctor(VQA_REDIS_URL=f"redis://limited:secret@127.0.0.1:{own.port}/0")
    assert (status, wrong(report)) == (0, [])
    assert any(level == "note" and "may not run INFO" in said for level, said in report["redis"])


def test_a_redis_that_is_not_there_and_a_wrong_setting_are_named(vqa: Vqa) -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}/0"
    gone = vqa("doctor", env={"VQA_REDIS_URL": url})
    assert gone.returncode == 1
    assert "WRONG" in gone.stdout
    assert "does not answer" in gone.stdout
    assert gone.stdout.endswith("1 thing is wrong\n")
    assert "secret" not in gone.stdout + gone.stderr
    misspelt = vqa("doctor", env={"VQA_LEESE_S": "9"})
    assert misspelt.returncode == 1
    assert "did you mean VQA_LEASE_S?" in misspelt.stdout


def test_the_report_is_one_line_a_finding(vqa: Vqa, up: None, worker: PlayedWorker) -> None:
    well = vqa("doctor", "--repair")
    assert (well.returncode, well.stderr) == (0, "")
    assert "repair" in well.stdout
    assert well.stdout.endswith("\n\nall is well\n")


def test_replication_that_nobody_waits_for_is_worth_a_note(
    doctor: Examine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with RedisServer(tmp_path / "master", "repl-diskless-sync-delay 0") as master, Redis(port=master.port) as redis:
        monkeypatch.setenv("VQA_REDIS_URL", master.url)
        assert "replication" not in doctor()[1]
        assert any("every submission fails" in said for said in wrong(doctor(VQA_WAIT_REPLICAS="1")[1]))
        monkeypatch.delenv("VQA_WAIT_REPLICAS")
        with RedisServer(tmp_path / "replica", f"replicaof 127.0.0.1 {master.port}"):
            wait_until(lambda: redis.info("replication")["connected_slaves"] == 1, "the replica is there")
            [(level, said)] = doctor()[1]["replication"]
            assert level == "note"
            assert "a failover loses the last second's jobs" in said
            assert doctor(VQA_WAIT_REPLICAS="1")[1]["replication"] == [("ok", "replicas connected: 1")]
            monkeypatch.delenv("VQA_WAIT_REPLICAS")
            redis.config_set("min-replicas-to-write", 1)
            wait_until(lambda: redis.info("replication").get("min_slaves_good_slaves") == 1, "Redis counts it")
            assert doctor()[1]["replication"] == [("ok", "replicas connected: 1")]
        wait_until(lambda: redis.info("replication")["min_slaves_good_slaves"] == 0, "the replica is gone")
        assert any("Redis refuses writes (NOREPLICAS)" in said for said in wrong(doctor()[1]))


@pytest.mark.usefixtures("up")
def test_a_folder_of_images_is_looked_at(doctor: Examine, redis: Redis, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    status, report = doctor(VQA_IMAGES_URL=folder.as_uri())
    assert (status, wrong(report)) == (1, [f"images: there is no folder {folder} (VQA_IMAGES_URL)"])
    assert not folder.exists()

    with Client() as client:
        client.images.upload(Image.new("RGB", (64, 48)))
    assert doctor()[1]["images"] == [("ok", "kept in VQA_IMAGES_URL: 1")]
    redis.zadd("vqa:images", {"sha256:" + "0" * 64: 1})
    assert doctor()[1]["images"] == [("note", "kept in VQA_IMAGES_URL: 2; the time of 1 of them is over")]


@pytest.mark.usefixtures("up")
def test_a_folder_of_images_that_cannot_be_written_is_wrong(
    doctor: Examine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    assert doctor(VQA_IMAGES_URL=folder.as_uri())[1]["images"] == [("ok", "kept in VQA_IMAGES_URL: 0")]
    assert not [path for path in folder.rglob("*") if path.is_file()]

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        status, report = doctor()
    assert status == 1
    assert "not written or deleted from" in wrong(report)[0]
    assert "No space left" in wrong(report)[0]

    # what refuses to be written in, whoever runs the test
    (folder / "partial").rmdir()
    (folder / "partial").touch()
    status, report = doctor()
    assert (status, "VQA_IMAGES_URL" in wrong(report)[0]) == (1, True)


@pytest.mark.usefixtures("up")
def test_a_bucket_of_images_is_left_as_it_was(doctor: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    with BucketServer() as bucket:
        for name, value in bucket.variables.items():
            monkeypatch.setenv(name, value)
        assert doctor(VQA_IMAGES_URL="s3://images/jobs")[1]["images"] == [("ok", "kept in VQA_IMAGES_URL: 0")]
        assert "PUT" in [method for method, _ in bucket.requests]
        assert not bucket.objects
